"""Numbers hold in float64, float32 and bfloat16, on rows of pads, on long pages, at extreme logits.

What is promised, as a share of the nats in question, and why:

- float32: 1e-5. A step is 6e-8 and the sums of a small network have some hundreds of terms, whose
  roundings add up to 1e-7 to 1e-6.
- bfloat16 (a model in it, or autocast): 2e-3 of a loss. A step of a logit is 8e-3 of it, but its
  error is as often up as down, and a loss is the mean over many answers; measured up to 4e-4.
- The same of sentences and their stories: 2e-2. Six answers, and scores of ten times a cosine;
  measured up to 7e-3.
- One logit alone: 6e-2 of the largest in bfloat16 (16 of its steps; measured up to 3e-2).
- Oracles, and sums over documents: float64 throughout, 1e-12.
"""

import contextlib
import math

import pytest
import tiny
import torch
import torch.nn.functional as F

from mylib.embeddings import Embedder, Matching, TornOracle, TornPages
from mylib.evaluation import evaluate, evaluate_passes, predict
from mylib.gazette import Gazette
from mylib.grammar import Cell, Grammar, Table, Template
from mylib.heads import SequenceClassifier, SpanExtractor, TokenClassifier, viterbi
from mylib.masks import (
    anticausal,
    bidirectional,
    block_causal,
    causal,
    causal_head,
    dense,
    documents,
    flipped,
    from_dense,
    hops,
    padding,
    prefix_lm,
    sliding_window,
)
from mylib.model import GPT, GPTConfig
from mylib.objectives import (
    AbsorbingDiffusion,
    Answering,
    Asking,
    Classifying,
    Denoising,
    ForwardBackward,
    Labelled,
    MaskedLM,
    Mixed,
    NextMasked,
    NextToken,
    PrefixLM,
    PreviousToken,
    Rows,
    Tagged,
    Tagging,
)
from mylib.sampling.drawing import settled
from mylib.tokenizer import load_tokenizer

KINDS = ("float32", "bfloat16", "autocast")
OF_A_LOGIT = {"float32": 1e-5, "bfloat16": 6e-2, "autocast": 6e-2}
OF_A_LOSS = {"float32": 1e-5, "bfloat16": 2e-3, "autocast": 2e-3}

GAZETTE = Gazette.load()


def chance(seed=0):
    return torch.Generator().manual_seed(seed)


TEXTS = GAZETTE.sample(6, chance(3))


def context(kind):
    """Where a model of this kind computes."""
    autocast = torch.autocast("cpu", torch.bfloat16)
    return autocast if kind == "autocast" else contextlib.nullcontext()


def made(kind, make):
    """The model that ``make`` gives, in the weights of this kind."""
    return make().to(getattr(torch, {"autocast": "float32"}.get(kind, kind)))


# -- masks -------------------------------------------------------------------------------------

TIME = 24
VALID = torch.arange(TIME)[None] < torch.tensor([[TIME], [0], [17]])  # row 1: pads alone
NUMBER = (torch.arange(TIME) // 9).expand(3, TIME).masked_fill(~VALID, -1)
MASKS = {
    "causal": causal,
    "anticausal": anticausal,
    "bidirectional": bidirectional,
    "padding": padding(VALID),
    "causal, padding": causal & padding(VALID),
    "window": sliding_window(3, 1),
    "hops": hops(-1, 2),
    "not hops": ~hops(1),
    "prefix": prefix_lm(5),
    "prefixes": prefix_lm(torch.tensor([1, 5, TIME])),
    "documents": documents(NUMBER),
    "documents, prefix": documents(NUMBER, prefix_lm(2)),
    "block causal": block_causal(7),
    "causal head": causal_head(4),
    "flipped": flipped(causal, TIME),
    "flipped once": flipped(causal, torch.tensor([TIME, 17, 1]), keys=False),
    "from dense": from_dense(torch.rand(3, TIME, TIME, generator=chance()) > 0.5),
    "nobody": causal & anticausal & ~hops(0),
}


def by_hand(q, k, v, visible):
    """Attention as it is written down, in float64; a query that sees nobody gets zeros."""
    q, k, v = (t.double() for t in (q, k, v))
    score = (q @ k.mT / math.sqrt(q.shape[-1])).masked_fill(~visible, -1e9)
    weight = (score - score.amax(-1, keepdim=True)).exp() * visible
    return weight / weight.sum(-1, keepdim=True).clamp(min=1e-300) @ v


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize(
    ("dtype", "close"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 2e-2)]
)
def test_attention_under_every_mask_is_what_is_written_down(name, dtype, close):
    """A bool mask in every dtype: the values, and gradients that are finite and right."""
    visible = dense(MASKS[name], TIME, batch=3, heads=2)
    q, k, v, push = torch.randn(4, 3, 2, TIME, 8, dtype=torch.float64, generator=chance())
    found, grads = [], []
    for given, attend in (
        (dtype, lambda *t: F.scaled_dot_product_attention(*t, attn_mask=visible)),
        (torch.float64, lambda *t: by_hand(*t, visible)),
    ):
        leaves = [t.to(dtype).to(given).clone().requires_grad_() for t in (q, k, v)]
        out = attend(*leaves)
        (out.double() * push).sum().backward()
        found.append(out.detach().double())
        grads.append(torch.stack([leaf.grad.double() for leaf in leaves]))
    for ours, wanted in zip((found[0], grads[0]), (found[1], grads[1]), strict=True):
        assert ours.isfinite().all()
        assert (ours - wanted).abs().max() <= close * max(1, float(wanted.abs().max()))
    alone = ~visible.any(-1)
    assert (found[0][alone] == 0).all()


def test_the_masks_above_hold_rows_that_see_nobody():
    seen = {name: dense(mask, TIME, batch=3).any(-1).all() for name, mask in MASKS.items()}
    assert not seen["padding"] and not seen["documents"] and not seen["nobody"] and seen["hops"]


def gpt():
    return tiny.gpt(vocab_size=32, n_positions=TIME)


@pytest.mark.parametrize("name", MASKS)
def test_the_network_under_every_mask(name):
    ids = tiny.ids(3, TIME, vocab=32)
    exact = made("float64", gpt)(ids, MASKS[name])
    assert exact.dtype == torch.float64 and exact.isfinite().all()
    for kind in KINDS:
        model = made(kind, gpt)
        with context(kind):
            logits = model(ids, MASKS[name])
        logits.float().logsumexp(-1).sum().backward()
        assert all(p.grad.isfinite().all() for p in model.parameters())
        assert (logits - exact).abs().max() <= OF_A_LOGIT[kind] * exact.abs().max()


@pytest.mark.parametrize("kind", ["float64", *KINDS])
def test_a_row_of_pads_moves_nothing(kind):
    """Beside a row of pads alone, the others give the same loss, and the pads get no gradient."""
    ids, asked = tiny.ids(3, TIME, vocab=32), VALID
    alone, beside = [], []
    for kept, into in (([0, 2], alone), ([0, 1, 2], beside)):
        model, states = made(kind, gpt), []
        model.wte.register_forward_hook(lambda *call, to=states: to.append(call[2]))
        with context(kind):
            logits = model(ids[kept], bidirectional & padding(VALID[kept]))
        states[0].retain_grad()
        targets = ids[kept].roll(1, 1)[asked[kept]]
        F.cross_entropy(logits[asked[kept]].double(), targets, reduction="sum").backward()
        into += [states[0].grad, torch.cat([p.grad.flatten() for p in model.parameters()])]
    assert (beside[0][~VALID] == 0).all() and (beside[0][VALID] != 0).any()
    close = {"float64": 1e-12, "float32": 1e-5}.get(kind, 2e-2)
    assert (beside[1] - alone[1]).abs().max() <= close * alone[1].abs().max()


# -- losses ------------------------------------------------------------------------------------


def language_model():
    return tiny.gpt(vocab_size=GAZETTE.vocab_size, n_positions=64, n_embd=32)


def tagged(text):
    words = torch.arange(1, len(text) - 1)
    return Tagged(text, text[1:-1] % 3, words, words)


def asking(text):
    inside = (torch.arange(len(text)) > 0) & (torch.arange(len(text)) < len(text) - 1)
    return Asking(text, inside, len(text) - 1, (2, 3) if len(text) % 2 else None)


LABELS = [str(n) for n in range(3)]
CASES = {  # objective, what it reads, the model that answers
    "next": (NextToken(), TEXTS, language_model),
    "previous": (PreviousToken(), TEXTS, language_model),
    "both ways": (ForwardBackward(p_bw=1.0), TEXTS, language_model),
    "masked": (MaskedLM(0.5), TEXTS, language_model),
    "next masked": (NextMasked(0.5), TEXTS, language_model),
    "prefix": (PrefixLM(), TEXTS, language_model),
    "denoising": (Denoising(), TEXTS, language_model),
    "diffusion": (AbsorbingDiffusion(), TEXTS, language_model),
    "diffusion, each": (AbsorbingDiffusion(hide="each"), TEXTS, language_model),
    "mixed": (Mixed(NextToken(), Denoising()), TEXTS, language_model),
    "tags": (
        Tagging(),
        [tagged(text) for text in TEXTS],
        lambda: TokenClassifier(language_model(), LABELS, chance()),
    ),
    "spans": (
        Answering(),
        [asking(text) for text in TEXTS],
        lambda: SpanExtractor(language_model(), chance()),
    ),
    "classes": (
        Classifying(),
        [Labelled(text, len(text) % 3) for text in TEXTS],
        lambda: SequenceClassifier(language_model(), 3, chance()),
    ),
    "matching": (Matching(), TornPages(GAZETTE).sample(6, chance()), lambda: Embedder(gpt_wide())),
    "late": (
        Matching(),
        TornPages(GAZETTE).sample(6, chance()),
        lambda: Embedder(gpt_wide(), "late"),
    ),
}


def gpt_wide():
    return tiny.gpt(vocab_size=GAZETTE.vocab_size, n_positions=64, n_embd=64)


def loss(objective, texts, model, kind):
    """A training step's loss, nats (added over its passes), with its gradients left in place."""
    with context(kind):
        parts = [
            objective.loss(model.answers(batch), batch) / batch.denominator
            for batch in objective.make(objective.alone(texts, 32), chance(5))
        ]
    sum(parts).backward()
    return sum(parts).detach()


@pytest.mark.parametrize("name", CASES)
def test_losses_agree(name):
    objective, texts, make = CASES[name]
    model = made("float64", make)
    exact, nats = (
        loss(objective, texts, model, "float64"),
        evaluate(model, objective, texts, chance(5), row=32),
    )
    assert exact.dtype == nats.dtype == torch.float64
    for kind in KINDS:
        model, close = made(kind, make), OF_A_LOSS[kind]
        if isinstance(objective, Matching) and kind != "float32":
            close *= 10
        found = loss(objective, texts, model, kind)
        assert abs(found - exact) <= close * exact
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        assert grads and all(grad.isfinite().all() for grad in grads)
        with context(kind):
            again = evaluate(model, objective, texts, chance(5), row=32)
        assert abs(again.sum() - nats.sum()) <= close * nats.sum()
        # One document alone has fewer answers to average over.
        assert (again - nats).abs().max() <= 10 * close * nats.max()


def test_float64_is_not_rounded_on_the_way():
    """The loss of a float64 model, and its predictions, have more digits than float32 has."""
    model = made("float64", language_model)
    objective = NextToken()
    (batch,) = objective.passes(objective.alone(TEXTS), chance())
    by_hand = F.cross_entropy(model.answers(batch), batch.targets, reduction="none")
    assert torch.equal(objective.nll(model.answers(batch), batch), by_hand)
    nats = evaluate(model, objective, TEXTS).sum()
    torch.testing.assert_close(by_hand.detach().sum(), nats, rtol=1e-12, atol=0)
    assert predict(model, objective, TEXTS)[0].dtype == torch.float64
    assert not torch.equal(by_hand, by_hand.float().double())
    bf16 = made("bfloat16", language_model)
    assert predict(bf16, objective, TEXTS)[0].dtype == torch.float32


WORDS = {name: case for name, case in CASES.items() if case[1] is TEXTS}


@pytest.mark.parametrize("name", WORDS)
def test_nothing_is_asked_of_a_row_of_pads(name):
    """A row of pads alone (a slice of a batch may hold one): no question, no gradient, no NaN."""
    objective, _, make = WORDS[name]
    rows = Rows.padded(TEXTS)
    empty = rows.tokens.new_zeros(1, rows.tokens.shape[1])
    rows = Rows(
        *(
            torch.cat([full[:2], fill, full[2:]])
            for full, fill in (
                (rows.tokens, empty),
                (rows.document, empty - 1),
                (rows.position, empty),
            )
        )
    )
    model, states = make(), []
    model.wte.register_forward_hook(lambda *call: states.append(call[2]))
    if isinstance(objective, Mixed):
        objective = Mixed(NextToken(), PreviousToken())  # a canvas has no pads
    for batch in objective.passes(rows, chance(1)):
        assert not batch.asked[2].any()
        states.clear()
        value = objective.loss(model.answers(batch), batch) / batch.denominator
        states[0].retain_grad()
        value.backward()
        assert value.isfinite() and states[0].grad.isfinite().all()
        assert (states[0].grad[2] == 0).all() and (states[0].grad[1] != 0).any()


def test_batches_of_pads_alone_are_refused():
    empty = torch.zeros(2, 5).long()
    rows = Rows(empty, empty - 1, empty)
    for objective in (NextToken(), AbsorbingDiffusion(), AbsorbingDiffusion(hide="each")):
        with pytest.raises(ValueError, match="nothing is asked"):
            objective.passes(rows, chance())
    with pytest.raises(ValueError, match="empty documents: number 1"):
        Rows.padded([TEXTS[0], TEXTS[0][:0]])


def test_a_document_of_one_token_costs_nothing():
    model, short = language_model(), TEXTS[1][:1]
    for objective in (NextToken(), PreviousToken(), MaskedLM(0.5), PrefixLM()):
        nats = evaluate(model, objective, [TEXTS[0], short, TEXTS[2][:2]], chance())
        assert nats[1] == 0 and nats.isfinite().all()


# -- long documents ----------------------------------------------------------------------------

LONG = 4096


@pytest.mark.parametrize("objective", [NextToken(), PreviousToken()], ids=["next", "previous"])
def test_rows_of_4096_tokens(objective):
    """One fast path and one mask of 4096 x 4096; p of the text is far below the least float64."""
    text = torch.randint(6, 64, (LONG,), generator=chance())

    def make():
        return tiny.gpt(vocab_size=64, n_positions=LONG, n_layer=1, n_head=1)

    exact = evaluate(made("float64", make), objective, [text])
    assert exact > 10_000 and math.exp(-exact) == 0
    assert abs(evaluate(make(), objective, [text]) - exact) < 1e-6 * exact
    assert abs(evaluate(made("bfloat16", make), objective, [text]) - exact) < 2e-3 * exact


class Undecided(torch.nn.Module):
    """Gives each of ten words the same probability, whatever it reads."""

    def __init__(self):
        super().__init__()
        self.logit = torch.nn.Parameter(torch.tensor(0.1))

    def answers(self, batch):
        return self.logit.expand(len(batch.targets), 10)


def test_a_million_answers_are_added_in_float64():
    text = torch.full((LONG + 1,), 7)
    nats = evaluate(Undecided(), NextToken(), [text] * 245, batch=49)
    each = -torch.full((10,), 0.1).log_softmax(0)[0].double()
    assert (nats == LONG * each).all()  # a power of two times a float32: exact in float64
    assert nats.sum() == 245 * LONG * each and 245 * LONG > 1e6
    passes = evaluate_passes(Undecided(), ForwardBackward(direction_tokens=False), [text])
    assert [float(one) for one in passes] == [float(LONG * each)] * 2


def paper(words, stops=()):
    """An edition of one template: ``words`` independent draws of twelve, full stops at ``stops``.

    Returns it with the nats of a page.
    """
    table = GAZETTE.grammar.tables["person"]
    weights = torch.arange(1, 13, dtype=torch.float64)
    weights = tuple((weights / weights.sum()).tolist())
    table = Table(table.columns, table.rows, weights, table.tags)
    cells = [
        Cell(word=".") if n in stops else Cell(draw=f"d{n}", column="name") for n in range(words)
    ]
    draws = {cell.draw: "person" for cell in cells if cell.draw}
    template = Template("long", 1.0, tuple(cells), draws, None, ())
    return Gazette(Grammar("long", "paper", {"person": table}, (template,)))


def nats_by_hand(gazette, ids):
    """-log p of the drawn words, added exactly."""
    table = gazette.grammar.tables["person"]
    rank = load_tokenizer()
    names = [rank.encode_ordinary(" " + row[0])[0] for row in table.rows]
    price = {name: -math.log(p) for name, p in zip(names, table.weights, strict=True)}
    return math.fsum(price[word] for word in ids.tolist() if word in price)


def test_the_oracle_keeps_a_long_page_in_logs():
    gazette = paper(2 * LONG)
    (page,) = gazette.sample(1, chance())
    found = gazette.log_prob(page[None])
    assert found.dtype == torch.float64 and len(page) == 2 * LONG + 2
    assert found < -10_000 and found.exp() == 0 and gazette.is_valid(page[None])
    assert float(found) == pytest.approx(-nats_by_hand(gazette, page), rel=1e-12)
    entropy = -math.fsum(p * math.log(p) for p in gazette.grammar.tables["person"].weights)
    assert gazette.entropy == pytest.approx(2 * LONG * entropy, rel=1e-12)
    wrong = page.clone()
    wrong[5] = page[-1]
    assert gazette.log_prob(wrong[None]) == -math.inf


def test_what_is_hidden_in_a_long_page_has_its_price():
    """Evidence of p = 0 in float64 and a posterior that still sums to one."""
    gazette = paper(600)
    (page,) = gazette.sample(1, chance())
    visible = torch.ones(1, len(page), dtype=torch.bool)
    visible[0, 7] = False
    found = gazette.posterior(page[None], visible=visible)
    assert found.log_evidence < -1000 and not found.dead
    weights = gazette.grammar.tables["person"].weights
    drawn = found.log_probs[0, 7].exp().sort(descending=True).values[:12]
    torch.testing.assert_close(drawn.flip(0), torch.tensor(weights, dtype=torch.float64))
    last = gazette.log_prob(page[None]) - found.log_evidence
    torch.testing.assert_close(found.log_probs[0, 7, page[7]], last[0])


def test_the_oracle_of_torn_pages_keeps_a_long_page_in_logs():
    gazette = paper(802, stops=(400, 801))
    pages = TornPages(gazette)
    one, other = pages.sample(2, chance())
    found = TornOracle(gazette).log_probs([one.sentence, other.sentence], [one.story])
    wanted = [-nats_by_hand(gazette, torn.sentence) for torn in (one, other)]
    assert max(wanted) < -745  # exp of it is 0
    torch.testing.assert_close(found[:, 0], torch.tensor(wanted, dtype=torch.float64))


def test_oracles_do_not_ask_what_the_default_dtype_is():
    canvas, before = GAZETTE.canvas(TEXTS), torch.get_default_dtype()
    found = []
    try:
        for dtype in (torch.float32, torch.float64, torch.bfloat16):
            torch.set_default_dtype(dtype)
            fresh = Gazette.load()
            nats = evaluate(language_model().float(), NextToken(), TEXTS).dtype
            found.append((fresh.log_prob(canvas).tolist(), fresh.entropy, nats))
    finally:
        torch.set_default_dtype(before)
    assert found[0] == found[1] == found[2] and found[0][2] == torch.float64


# -- extreme numbers ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", CASES)
def test_extreme_logits_have_finite_losses(name, dtype):
    """Logits of 1e4, right or wrong: a loss of up to 2e4 nats a word, and finite gradients."""
    objective, texts, make = CASES[name]
    for batch in objective.make(objective.alone(texts, 32), chance(5)):
        with torch.no_grad():
            shape = make().answers(batch).shape
        sign = torch.randint(2, shape, generator=chance(2)) * 2 - 1
        logits = (1e4 * sign).to(dtype).requires_grad_()
        nll = objective.nll(logits, batch)
        objective.loss(logits, batch).backward()
        assert nll.isfinite().all() and (nll >= 0).all() and logits.grad.isfinite().all()
        assert 1.9e4 < nll.max() < 4.1e4  # a span is two answers


@pytest.mark.parametrize("temperature", [1.0, 1e-300, 1e300])
def test_extreme_logits_can_be_drawn_from(temperature):
    logits = torch.tensor([[1e4, -1e4, 0.0], [-3e38, 3e38, 0.0]])
    log_p = settled(logits, temperature)
    torch.testing.assert_close(log_p.exp().sum(-1), torch.ones(2, dtype=torch.float64))


@pytest.mark.parametrize("pool", ["mean", "late"])
@pytest.mark.parametrize("kind", KINDS)
def test_stories_alike_do_not_tie_in_bfloat16(kind, pool):
    """Cosines near 1 are told apart: scores are not rounded to the steps of bfloat16."""
    model = made(kind, lambda: Embedder(gpt_wide(), pool))
    batch = Matching().batch(TornPages(GAZETTE).sample(40, chance()))
    with context(kind), torch.no_grad():
        scores = model.scores(batch)
    assert scores.dtype == torch.float32 and len(scores[0].unique()) >= 38


def test_the_best_path_of_a_long_text_is_the_same_in_bfloat16():
    """Scores add up over the words: rounded as they grow, the path would forget what it saw."""
    tags = ["O", "B-PER", "I-PER"]
    logits = torch.randn(2000, 3, generator=chance())
    rounded = logits.log_softmax(-1).bfloat16()
    assert viterbi(rounded, tags) == viterbi(rounded.double(), tags)
    assert viterbi(60 * rounded.half(), tags) == viterbi(60 * rounded.half().double(), tags)


def test_the_model_of_these_tests_is_no_easy_one():
    """bfloat16 is told apart from float32: these tests see a loss of digits."""
    ids = tiny.ids(3, TIME, vocab=32)
    exact = made("float64", gpt)(ids)
    coarse, fine = (made(kind, gpt)(ids).double() - exact for kind in ("bfloat16", "float32"))
    assert coarse.abs().max() > 1e-3 > 1e-4 > fine.abs().max() > 0


def test_a_fresh_model_starts_at_the_same_loss_in_every_kind():
    config = GPTConfig(GAZETTE.vocab_size, n_positions=64)
    exact = float(evaluate(GPT.init(config, chance()).double(), NextToken(), TEXTS).sum())
    for kind in KINDS:
        model = made(kind, lambda: GPT.init(config, chance()))
        with context(kind):
            found = float(evaluate(model, NextToken(), TEXTS).sum())
        assert found == pytest.approx(exact, rel=OF_A_LOSS[kind])
