"""Heads over models of transformers: their own states, their own masks, and nothing from pads."""

import pytest
import tiny as small
import torch

from mylib.convert import Encoder, load_gpt2, make_bidirectional
from mylib.heads import SequenceClassifier, SpanExtractor, TokenClassifier
from mylib.masks import (
    anticausal,
    bidirectional,
    causal,
    documents,
    padding,
    prefix_lm,
    sliding_window,
)
from mylib.objectives import (
    Answering,
    Asking,
    Classifying,
    Labelled,
    Tagged,
    Tagging,
)
from mylib.probes import influence
from mylib.train import fit
from mylib.zoo import tiny

TAGS = ("O", "B-PER", "I-PER")
MODELS = [("gpt2", "sdpa"), ("llama", "sdpa"), ("qwen3", "sdpa"), ("gemma2", "eager")]
VALID = torch.tensor([[1] * 7, [1] * 4 + [0] * 3, [1] * 2 + [0] * 5]).bool()
IDS = small.ids(3, 7, vocab=64).masked_fill(~VALID, 0)
EVERY = pytest.mark.parametrize("opened", [False, True], ids=["untouched", "opened"])


def chance(seed=0):
    return torch.Generator().manual_seed(seed)


def model(name="gpt2", backend="sdpa", opened=False):
    made = tiny(name, backend)
    if opened:
        make_bidirectional(made)
    return made, (bidirectional if opened else causal)


def tagged(n=3):
    """Documents of 7, 4 and 2 tokens with a tag for each token but the first."""
    found = []
    for row, valid in zip(IDS[:n], VALID[:n], strict=True):
        text = row[valid]
        place = torch.arange(1, len(text))
        found.append(Tagged(text, text[1:] % 3, place, place))
    return found


def asked():
    candidates = torch.tensor([0, 0, 1, 1, 1, 1, 0]).bool()
    return [
        Asking(IDS[0], candidates, 6, (2, 3)),
        Asking(IDS[1, :4], candidates[:4].logical_and(torch.arange(4) < 3), 3, None),
        Asking(IDS[0].flip(0), candidates, 6, (5, 5)),
    ]


def encoder_config(**more):
    from transformers import BertConfig

    sizes = dict(vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4)
    return BertConfig(**sizes, intermediate_size=64, max_position_embeddings=64, **more)


def native_encoder():
    """A tiny BERT, an encoder by birth."""
    from transformers import BertModel

    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = BertModel(encoder_config()).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.25, generator=chance(3))
    return made


# -- the body's own states ---------------------------------------------------------------------


@pytest.mark.parametrize(("name", "backend"), MODELS)
@EVERY
def test_states_are_the_body_s_own_and_nothing_comes_from_pads(name, backend, opened):
    theirs, mask = model(name, backend, opened)
    head = TokenClassifier(theirs, TAGS, chance())
    assert head.base.looks is mask and head.base.body is theirs.base_model
    plain = theirs.base_model(IDS, attention_mask=VALID.long()).last_hidden_state
    found = head.hidden(IDS, mask & padding(VALID))
    assert torch.equal(found[VALID], plain[VALID])
    full = theirs.base_model(IDS, attention_mask=torch.ones_like(IDS)).last_hidden_state
    assert torch.equal(head.hidden(IDS, mask), full)
    torch.testing.assert_close(head(IDS, mask), head.out(full))
    # Each row alone, and with other pads.
    others = head.hidden(IDS.masked_fill(~VALID, 33), mask & padding(VALID))
    torch.testing.assert_close(others[VALID], found[VALID], rtol=1e-4, atol=1e-5)
    for row, valid in enumerate(VALID):
        alone = head.hidden(IDS[row : row + 1, valid], mask)[0]
        torch.testing.assert_close(found[row][valid], alone, rtol=1e-4, atol=2e-5)
    wanted = torch.ones(7, 7).bool() if opened else torch.ones(7, 7).tril().bool()
    assert torch.equal(influence(head, IDS[:1], mask=mask), wanted)
    # Sizes are the body's, answers those of the objective.
    assert (head.config.n_embd, head.config.n_layer, head.config.n_head) == (32, 2, 4)
    objective = Tagging(mask)
    (batch,) = objective.passes(objective.alone(tagged()), chance())
    torch.testing.assert_close(head.answers(batch), head.out(found)[batch.asked])


@pytest.mark.parametrize("opened", [False, True])
def test_a_mask_that_the_model_does_not_have_is_refused(opened):
    theirs, mask = model(opened=opened)
    head = SpanExtractor(theirs, chance())
    blocks = torch.tensor([[0, 0, 0, 1, 1, 1, 1]] * 3)
    wrong = [
        causal if opened else bidirectional,
        anticausal,
        sliding_window(3, 3),
        prefix_lm(3),
        mask & documents(blocks),
    ]
    for each in wrong:
        for given in (each, each & padding(VALID)):
            with pytest.raises(ValueError, match=f"not the mask of this GPT2Model.*be {mask.name}"):
                head(IDS, given)
    # The same function under another name is the same mask.
    torch.testing.assert_close(head(IDS, lambda *args: mask(*args)), head(IDS, mask))
    objective = Answering(wrong[0])
    with pytest.raises(ValueError, match="not the mask of this GPT2Model"):
        fit(head, objective, asked(), 1, batch=3, progress=False)


def test_what_it_cannot_read_is_refused():
    head = SpanExtractor(model()[0], chance())
    positions = torch.arange(7).expand(3, 7)
    given = padding(VALID)
    plain = head(IDS, causal & given)
    # Pads have no position that matters.
    there = positions.masked_fill(~VALID, 0)
    assert torch.equal(head(IDS, causal & given, there), plain)
    assert torch.equal(head(IDS, causal, positions[0]), head(IDS, causal))
    for wrong in (positions + 1, positions.flip(1), torch.zeros_like(positions)):
        with pytest.raises(ValueError, match=r"positions .* count 0, 1"):
            head(IDS, causal & given, wrong)
    with pytest.raises(ValueError, match="the model has 64 positions, got 65 tokens"):
        head(torch.full((1, 65), 7), causal)
    for ids, found in [([7, 64], "7..64"), ([-1, 7], r"-1\.\.7")]:
        with pytest.raises(ValueError, match=rf"ids lie in 0\.\.63, found {found}"):
            head(torch.tensor([ids]), causal)


@pytest.mark.parametrize("opened", [False, True])
def test_a_model_that_is_neither_is_refused(opened):
    """A windowed layer: of eight tokens none sees all, nor all before it."""
    theirs = tiny("mistral", layers=1)
    if opened:
        make_bidirectional(theirs)
    with pytest.raises(ValueError, match="MistralModel is neither causal nor bidirectional"):
        SpanExtractor(theirs, chance())


def test_what_is_no_model_is_refused():
    for base in (torch.nn.Linear(3, 3), small.Toy(lambda toy, x: x)):
        with pytest.raises(TypeError, match="a base is a GPT, a model of transformers or an Enc"):
            SpanExtractor(base, chance())


def test_a_recurrence_is_causal_too():
    head = SpanExtractor(tiny("mamba", "eager"), chance())
    assert head.base.looks is causal and head.config.n_head == 1
    found = head(IDS, causal & padding(VALID))
    torch.testing.assert_close(found[1, :4], head(IDS[1:2, :4], causal)[0], rtol=1e-4, atol=1e-5)


def test_an_encoder_by_birth():
    theirs = native_encoder()
    for each in (theirs, tiny("bert")):  # the zoo's is told to be a decoder
        head = TokenClassifier(each, TAGS, chance())
        assert head.base.looks is (bidirectional if each is theirs else causal)
    head = TokenClassifier(theirs, TAGS, chance())
    found = head.hidden(IDS, bidirectional & padding(VALID))
    plain = theirs(IDS, attention_mask=VALID.long()).last_hidden_state
    assert torch.equal(found[VALID], plain[VALID])
    with pytest.raises(ValueError, match="not the mask of this BertModel"):
        head(IDS, causal)


def test_an_encoder_of_ours(tmp_path):
    tiny("llama").save_pretrained(tmp_path)
    encoder = Encoder(tmp_path)
    head = TokenClassifier(encoder, TAGS, chance())
    assert head.base.body is encoder.model and head.base.looks is bidirectional
    torch.testing.assert_close(
        head.hidden(IDS, bidirectional & padding(VALID))[VALID],
        encoder(IDS, VALID.long())[VALID],
    )


def test_a_model_keeps_its_mode_and_its_gradients_when_it_is_measured():
    theirs = tiny("gpt2").train()
    with torch.no_grad():
        head = SpanExtractor(theirs, chance())
    assert theirs.training and theirs.transformer.h[0].training and head.training
    assert all(p.grad is None for p in head.parameters())
    for p in theirs.parameters():
        p.requires_grad = False
    assert SpanExtractor(theirs, chance()).base.looks is causal


# -- our GPT and theirs ------------------------------------------------------------------------


@EVERY
def test_a_head_on_gpt2_is_the_same_on_ours(opened):
    theirs, mask = model("gpt2", "sdpa", opened)
    ours = load_gpt2(theirs)
    for make in (
        lambda base: TokenClassifier(base, TAGS, chance(4)),
        lambda base: SpanExtractor(base, chance(4)),
    ):
        one, two = make(ours).eval(), make(theirs).eval()
        assert torch.equal(one.out.weight, two.out.weight)
        for given in (mask, mask & padding(VALID)):
            pair = [head(IDS, given)[VALID] for head in (one, two)]
            torch.testing.assert_close(*pair, rtol=1e-4, atol=1e-5)
    for pool in ("first", "last", "mean"):
        objective = Classifying(mask)
        texts = [Labelled(each.ids, 1) for each in tagged()]
        (batch,) = objective.passes(objective.alone(texts), chance())
        pair = [SequenceClassifier(b, 2, chance(4), pool).eval() for b in (ours, theirs)]
        torch.testing.assert_close(*[h.answers(batch) for h in pair], rtol=1e-4, atol=1e-5)


# -- training ----------------------------------------------------------------------------------


@EVERY
def test_a_tiny_gemma_with_a_span_head_trains_on_padded_batches(opened):
    theirs, mask = model("gemma2", "eager", opened)
    head = SpanExtractor(theirs, chance()).train()
    objective = Answering(mask)
    (batch,) = objective.passes(objective.alone(asked()), chance())
    assert not batch.shown.ge(0).all()  # there are pads
    optimizer = torch.optim.AdamW(head.parameters(), 3e-3)
    losses = []
    for _ in range(6):
        loss = objective.loss(head.answers(batch), batch) / batch.denominator
        optimizer.zero_grad()
        loss.backward()
        for name, parameter in head.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.any(), name
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_fit_trains_body_and_head(name):
    theirs, mask = model(name, "sdpa", opened=True)
    head = TokenClassifier(theirs, TAGS, chance())
    before = {n: p.clone() for n, p in head.named_parameters()}
    history = fit(
        head, Tagging(mask), tagged(), 30, batch=3, learning_rate=1e-2, progress=False
    )  # fmt: skip
    assert history.loss[-1] < 0.5 * history.loss[0]
    assert all(not torch.equal(p, before[n]) for n, p in head.named_parameters())


def test_dropout_depends_on_seed_and_step_alone():
    """A model of transformers brings its own dropout, drawn from torch's own generator."""
    assert SpanExtractor(tiny("llama"), chance()).config.dropout == 0
    runs = []
    for seed in (1, 2):
        head = TokenClassifier(tiny("gpt2"), TAGS, chance())
        assert head.config.dropout == 0.1
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        history = fit(head, Tagging(causal), tagged(), 4, batch=3, progress=False)
        assert torch.equal(torch.get_rng_state(), state)
        runs.append(history.loss)
    assert runs[0] == runs[1]
