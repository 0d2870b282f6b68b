"""Opened or refused, and nothing in between: conversions of many decoders, judged from outside.

The library checks itself by gradient, module by module. Here whole tokens and hidden states are
replaced instead, the expected bands are written out, and an untouched model under an explicit
mask is the oracle for the right weights.
"""

import copy
import importlib.metadata
import inspect
import io
import pickle

import pytest
import torch
from torch import nn

from mylib.convert import (
    Encoder,
    NotBidirectional,
    Opened,
    check_bidirectional,
    checking,
    make_bidirectional,
    opening,
)
from mylib.model import GPT, GPTConfig
from mylib.zoo import BACKENDS, WINDOW, tiny

T, PADS = 8, 2
IDS = torch.tensor([5, 9, 13, 17, 21, 25, 29, 33])
CASES = ("one row", "no padding", "right padding", "left padding")

NAMES = [
    *("gpt2", "openai-gpt", "gpt_neo", "gpt_bigcode", "ctrl", "opt", "bloom", "mpt", "falcon"),
    *("falcon-alibi", "gptj", "codegen", "gpt_neox", "llama", "mistral", "mixtral", "gemma"),
    *("gemma2", "gemma3_text", "gpt_oss", "qwen2", "qwen3", "phi", "phi3", "deepseek_v3"),
    *("longcat_flash", "llama4_text", "modernbert-decoder", "bert", "bart", "roberta", "big_bird"),
    *("doge", "minimax", "rwkv", "jamba", "mamba"),
    "stablelm",  # obeys the flag of its modules, not that of its configuration
]
ONLY_EAGER = {"openai-gpt", "gpt_neo", "bloom", "mpt", "gptj", "codegen", "gemma2", "gpt_oss"}
ONLY_EAGER |= {"big_bird", "rwkv", "mamba"}
PAIRS = [(name, b) for name in NAMES for b in BACKENDS if b == "eager" or name not in ONLY_EAGER]
# How far each of the two layers sees once it is open; None = everything.
WINDOWED = dict.fromkeys(["mistral", "mixtral", "phi3", "doge"], (WINDOW, WINDOW))
WINDOWED |= dict.fromkeys(["gemma2", "gemma3_text", "gpt_oss"], (WINDOW, None))
WINDOWED |= {"gpt_neo": (None, WINDOW), "modernbert-decoder": (WINDOW, None)}
# Whatever is not here must open.
REFUSED = {
    "mpt": "AttributeError",  # hands a mask of None on to code that wants one
    "llama4_text": "neither causal nor causal within a window",  # chunks
    "bart": "left padding: without its pads",  # positions that nobody can shift
    "roberta": "left padding: without its pads",  # positions counted from the ids
    "minimax": "does not see token 1",  # recurrences
    "jamba": "does not see token 1",
    "mamba": "no attention module",
    "rwkv": "TypeError",
    ("modernbert-decoder", "eager"): "TypeError",
}


# -- a judge of its own ------------------------------------------------------------------------


def batch(model, case, row=IDS):
    """Which tokens of ``row`` are real, and what the model is called with (row first)."""
    valid = torch.ones(T, dtype=torch.bool)
    if case == "one row":
        return valid, {"input_ids": row[None]}
    if case == "right padding":
        valid[-PADS:] = False
    elif case == "left padding":
        valid[:PADS] = False
    mask = torch.stack([valid, torch.ones(T, dtype=torch.bool)]).long()
    given = {"input_ids": torch.stack([row, row.flip(0)]), "attention_mask": mask}
    if case == "left padding" and takes_positions(model):
        given["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
    return valid, given


def takes_positions(model):
    return "position_ids" in inspect.signature(model.forward).parameters


def outputs(model, given, row=0):
    with torch.no_grad():
        out = model(**given)
    found = out["logits"] if "logits" in out else out["last_hidden_state"]
    assert found.isfinite().all()
    return found[row].double()


def moved(changed, plain):
    # Experts round differently when other tokens come to them, by 2e-6; everybody else not at all.
    return (changed - plain).abs().amax(-1) > 5e-6 * plain.abs().max()


def by_tokens(model, case):
    """[i, j]: another token at j moves output i of the whole model."""
    swapped = [IDS + 3 * (torch.arange(T) == j) for j in range(T)]
    valid, plain = batch(model, case)
    given = [batch(model, case, row)[1] for row in swapped]
    if case == "one row":  # alone is alone
        whole = outputs(model, plain)
        return valid, torch.stack([moved(outputs(model, each), whole) for each in given], 1)
    # Beside pads all at once: the texts in the even rows, a full neighbour in the odd ones.
    together = {key: torch.cat([each[key] for each in (plain, *given)]) for key in plain}
    every = outputs(model, together, slice(0, None, 2))
    return valid, torch.stack([moved(each, every[0]) for each in every[1:]], 1)


def blocks(model):
    return next(m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == 2)


def by_states(model, case):
    """For each block [i, j]: another hidden state at j moves its output i."""
    found, calls = [], []

    def keep(module, args, kwargs):
        calls.append((module, [a.clone() if torch.is_tensor(a) else a for a in args], kwargs))

    hooks = [b.register_forward_pre_hook(keep, with_kwargs=True) for b in blocks(model)]
    outputs(model, batch(model, case)[1])
    for hook in hooks:
        hook.remove()
    chance = torch.Generator().manual_seed(0)
    for module, args, kwargs in calls:

        def ask(states, module=module, args=args, kwargs=kwargs):
            with torch.no_grad():
                out = module(states, *args[1:], **kwargs)
            return (out[0] if isinstance(out, tuple | list) else out)[0].double()

        plain, columns = ask(args[0].clone()), []
        for j in range(T):
            states = args[0].clone()
            states[:, j] += torch.randn(states.shape[-1], generator=chance)
            columns.append(moved(ask(states), plain))
        found.append(torch.stack(columns, 1))
    return found


def band(width):
    at = torch.arange(T)
    return (at[:, None] - at).abs() <= (T if width is None else width)


def judge(model, widths):
    """Every check of the issue, by replacing things."""
    for case in CASES:
        valid, seen = by_tokens(model, case)
        # Over two layers a path may lead through any real token, never through a pad.
        steps = [(band(w) & valid).float() for w in widths]
        through = (steps[1] @ steps[0]) > 0
        assert torch.equal(seen[valid], through[valid]), (case, seen)
        if case == "no padding":
            continue
        for seen, width in zip(by_states(model, case), widths, strict=True):
            assert torch.equal(seen[valid], (band(width) & valid)[valid]), (case, width, seen)
        if case == "one row":
            continue
        plain = outputs(model, batch(model, case)[1])[valid]
        others = IDS.where(valid, IDS + 7)
        close(outputs(model, batch(model, case, others)[1])[valid], plain)
        close(outputs(model, {"input_ids": IDS[valid][None]}), plain)


def close(one, other, tolerance=1e-4):
    torch.testing.assert_close(
        one, other, rtol=0, atol=tolerance * float(other.detach().abs().max())
    )


def everything(model):
    """All that an attempt to open a model could have left behind."""
    plain = (bool, int, float, str, type(None))
    modules = {}
    for name, module in model.named_modules():
        own = vars(module)
        modules[name] = (
            sorted(own),
            {key: value for key, value in own.items() if isinstance(value, plain)},
            {key: len(value) for key, value in own.items() if key.endswith("hooks")},
        )
    tensors = dict(model.state_dict()) | dict(model.named_buffers())
    config = model.config
    return (
        modules,
        {name: (t.dtype, t.clone()) for name, t in tensors.items()},
        {name: (id(t), t.requires_grad, t.grad) for name, t in model.named_parameters()},
        copy.deepcopy([config.to_dict(), {k: v for k, v in vars(config).items()}]),
    )


def assert_as_before(model, before, logits):
    now = everything(model)
    assert now[0] == before[0] and now[2] == before[2] and now[3] == before[3]
    assert now[1].keys() == before[1].keys()
    for name, (dtype, value) in now[1].items():
        assert dtype == before[1][name][0] and torch.equal(value, before[1][name][1]), name
    assert torch.equal(outputs(model, {"input_ids": IDS[None]}), logits)


# -- one: opened or refused --------------------------------------------------------------------


@pytest.mark.parametrize(("name", "backend"), PAIRS)
def test_opened_or_refused_and_nothing_in_between(name, backend):
    model = tiny(name, backend)
    logits = outputs(model, {"input_ids": IDS[None]})
    before = everything(model)
    with pytest.raises(NotBidirectional):
        check_bidirectional(model)
    assert_as_before(model, before, logits)
    reason = REFUSED.get(name) or REFUSED.get((name, backend))
    if reason:
        with pytest.raises(NotBidirectional, match=reason):
            make_bidirectional(model)
    else:
        opened = make_bidirectional(model)
        judge(model, WINDOWED.get(name, (None, None)))
        opened.undo()
    assert_as_before(model, before, logits)


def test_other_mixers_beside_the_attentions_are_named():
    with pytest.raises(NotBidirectional, match="4 modules mix tokens in 2 layers; the others"):
        make_bidirectional(tiny("falcon_h1"))


def test_enough_of_them_open():
    open_ones = {name for name, b in PAIRS if name not in REFUSED and (name, b) not in REFUSED}
    both = {name for name in open_ones if name not in ONLY_EAGER}
    assert len(open_ones) >= 25 and len(both) >= 18


# -- two: the right weights, windows, folders --------------------------------------------------


def additive(valid, width, rows=1):
    """An explicit mask (rows, 1, T, T): 0 = look, the smallest number = do not."""
    seen = band(width) & valid
    mask = torch.zeros(T, T).masked_fill(~seen, torch.finfo(torch.float32).min)
    return mask.expand(rows, 1, T, T)


def oracle(name, case, width):
    """Row 0 of the untouched eager model under an explicit mask."""
    model = tiny(name, "eager")
    valid, given = batch(model, case)
    given = {key: value[:1] for key, value in given.items()}
    model.config.use_cache = False
    return outputs(model, given | {"attention_mask": additive(valid, width)})[valid]


@pytest.mark.parametrize(
    ("name", "backend"),
    [(name, "sdpa") for name in ("gpt2", "llama", "qwen3", "phi", "phi3", "gemma", "gpt_bigcode")]
    + [(name, "eager") for name in ("gpt2", "mistral", "gptj", "falcon", "mixtral")],
)
def test_parity_with_an_untouched_model_under_an_explicit_mask(name, backend):
    model = tiny(name, backend)
    make_bidirectional(model)
    for case in CASES:
        valid, given = batch(model, case)
        width = WINDOWED.get(name, (None,))[0]
        close(outputs(model, given)[valid], oracle(name, case, width), 1e-5)


@pytest.mark.parametrize("name", ["mistral", "gemma2", "gpt_neo", "modernbert-decoder"])
def test_windows_are_exact_and_survive_folders(name, tmp_path):
    """Twice half must not become a quarter, nor half of what was widened to everything."""
    backend = "sdpa" if name == "modernbert-decoder" else "eager"
    trained = WINDOWED[name]
    wanted = {
        "both": trained,
        "half": tuple(w and WINDOW // 2 for w in trained),
        "none": (None, None),
    }
    original = tiny(name, backend)
    causal = outputs(original, {"input_ids": IDS[None]})
    for first in wanted:
        model = copy.deepcopy(original)
        make_bidirectional(model, first)
        for case in ("one row", "left padding"):
            valid = batch(model, case)[0]
            for seen, width in zip(by_states(model, case), wanted[first], strict=True):
                assert torch.equal(seen[valid], (band(width) & valid)[valid])
        logits = outputs(model, {"input_ids": IDS[None]})
        folder = tmp_path / first
        model.save_pretrained(folder)
        for second in (first, {"both": "half", "half": "none", "none": "half"}[first]):
            again = type(model).from_pretrained(folder, attn_implementation=backend).eval()
            if second == first:  # the folder itself remembers
                kept = torch.equal(outputs(again, {"input_ids": IDS[None]}), logits)
                assert kept != (name == "gpt_neo")  # its masks are buffers that no folder holds
            before = everything(again)
            loaded = outputs(again, {"input_ids": IDS[None]})
            opened = make_bidirectional(again, second)
            if second == first:
                assert torch.equal(outputs(again, {"input_ids": IDS[None]}), logits)
            else:
                for seen, width in zip(by_states(again, "one row"), wanted[second], strict=True):
                    assert torch.equal(seen, band(width)), (first, second)
            opened.undo()
            assert_as_before(again, before, loaded)
    assert torch.equal(outputs(original, {"input_ids": IDS[None]}), causal)


def test_a_folder_opened_thrice_keeps_what_it_was_trained_with(tmp_path):
    model = tiny("mistral")
    for window in ("half", "half", "none", "half", "both", "half"):
        make_bidirectional(model, window)
        model.save_pretrained(tmp_path)
        model = type(model).from_pretrained(tmp_path).eval()
    make_bidirectional(model, "half")
    assert torch.equal(by_states(model, "one row")[0], band(WINDOW // 2))


@pytest.mark.parametrize(
    ("window", "limit", "length"),
    [(4, 64, 8), (6, 64, 10), (20, 64, 24), (20, 12, 12), (99, 64, 8)],
)
def test_the_text_of_a_check_is_longer_than_the_window(window, limit, length):
    model = tiny("mistral")
    model.config.sliding_window, model.config.max_position_embeddings = window, limit
    ids = checking.text(model)
    assert len(ids) == len(ids.unique()) == length and 0 not in ids


@pytest.mark.parametrize("window", ["both", "half", "none"])
def test_a_window_longer_than_the_check_is_written_all_the_same(window):
    model = tiny("mistral")
    model.config.sliding_window = 1000
    opened = make_bidirectional(model, window)
    assert model.config.sliding_window == {"both": 1000, "half": 500, "none": 1 << 30}[window]
    assert opened.undo().config.sliding_window == 1000


# -- three: conversions that only look right ---------------------------------------------------


def attentions(model):
    return [m for m in model.modules() if type(m).__name__.endswith("Attention")]


def wrap(model, change, late=False):
    """Replace each attention's forward, as the note does: its mask goes through ``change``."""
    model.config.use_cache = False
    for module in attentions(model):
        plain = module.forward

        def bidirectional_forward(*args, plain=plain, module=module, **kwargs):
            if late:  # what a loop without a factory calls: always the last
                plain = attentions(model)[-1].original
            states = args[0] if args else kwargs["hidden_states"]
            kwargs["attention_mask"] = change(states, kwargs.get("attention_mask"))
            return plain(*args, **kwargs)

        module.original, module.forward = plain, bidirectional_forward


def beside(model):
    """The 2D mask of the last call, kept outside of the network."""
    kept = {}

    def keep(module, args, kwargs):
        kept["mask"] = kwargs.get("attention_mask")

    model.register_forward_pre_hook(keep, with_kwargs=True)
    return lambda states: (
        torch.ones(states.shape[:2]) if kept["mask"] is None else kept["mask"].float()
    )


def written_note(states, mask, none_is_ones=False):
    """Seed 001, step by step."""
    size, length, _ = states.shape
    if mask is None and none_is_ones:
        mask = torch.ones(size, length)
    open_mask = torch.ones(size, 1, length, length)
    padding = mask.unsqueeze(1).unsqueeze(2).float()
    open_mask = open_mask * padding * padding.transpose(-1, -2)
    return (1.0 - open_mask) * torch.finfo(states.dtype).min


def right(states, valid):
    return ((1 - valid) * torch.finfo(states.dtype).min)[:, None, None].expand(
        -1, 1, states.shape[1], -1
    )


def only_modules(model):
    for module in attentions(model):
        module.is_causal = False


def one_layer(model):
    side = beside(model)
    first = attentions(model)[0]
    plain = first.forward

    def bidirectional_forward(*args, **kwargs):
        states = args[0] if args else kwargs["hidden_states"]
        return plain(*args, **kwargs | {"attention_mask": right(states, side(states))})

    first.forward = bidirectional_forward


def side_mask(model, make, late=False):
    side = beside(model)
    wrap(model, lambda states, mask: make(states, side(states)), late)


def square(states, valid):
    return valid.bool()[:, None, None].expand(-1, 1, states.shape[1], -1)


CONVERSIONS = {
    "nothing": lambda model: None,
    "no cache": lambda model: wrap(model, lambda states, mask: mask),  # the note's "broken"
    "the note": lambda model: wrap(model, written_note),
    "the note, None is ones": lambda model: wrap(model, lambda s, m: written_note(s, m, True)),
    "pads and reals exchanged": lambda model: side_mask(model, lambda s, v: ~square(s, v)),
    "bool mask": lambda model: side_mask(model, square),
    "no mask": lambda model: wrap(model, lambda states, mask: None),
    "no mask, late binding": lambda model: wrap(model, lambda s, m: None, late=True),
    "modules only": only_modules,
    "one layer": one_layer,
    "late binding": lambda model: side_mask(model, right, late=True),
    "mask kept beside": lambda model: side_mask(model, right),
    "configuration only": lambda model: setattr(model.config, "is_causal", False),
}
CRASH = {"the note", "the note, None is ones"}
GOOD = {"late binding", "mask kept beside", "configuration only"}


def test_a_band_that_nobody_declared_is_not_open():
    def narrow(states, valid):
        near = band(2)[: states.shape[1], : states.shape[1]]
        closed = ~(near & valid.bool()[:, None, None])
        return closed * torch.finfo(states.dtype).min

    model = tiny("llama")
    side_mask(model, narrow)
    with pytest.raises(NotBidirectional, match="token 0 does not see token 3"):
        check_bidirectional(model)
    model.config.sliding_window = 2
    assert check_bidirectional(model).ok


def the_notes_own_test(model):
    """Patched by name (it only warns), forward on (2, 8) with three pads, non-zero output."""
    ids = torch.randint(3, 64, (2, 8), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[0, -3:] = 0
    with torch.no_grad():
        hidden = model(input_ids=ids, attention_mask=mask).logits
    real = hidden[mask.bool()]
    return hidden.shape[:2] == (2, 8) and bool((real.abs().sum(-1) > 0).all())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("conversion", CONVERSIONS)
def test_what_the_note_accepts_and_the_check_does_not(conversion, name, backend):
    model = tiny(name, backend)
    CONVERSIONS[conversion](model)
    if conversion not in CRASH:
        assert the_notes_own_test(model)
    # On SDPA a bool mask means what they meant.
    if conversion in GOOD or (conversion, backend) == ("bool mask", "sdpa"):
        assert check_bidirectional(model).ok
    else:
        with pytest.raises(NotBidirectional):
            check_bidirectional(model)


@pytest.mark.parametrize("conversion", ["late binding", "mask kept beside", "configuration only"])
def test_only_parity_sees_the_wrong_weights(conversion):
    model = tiny("llama")
    CONVERSIONS[conversion](model)
    error = 0.0
    for case in CASES:
        valid, given = batch(model, case)
        wanted = oracle("llama", case, None)
        error = max(error, float((outputs(model, given)[valid] - wanted).abs().max()))
    assert (error > 0.5) if conversion == "late binding" else (error < 1e-4)


# -- four: training ----------------------------------------------------------------------------


def gradients_of_two_batches(model, checkpointing):
    model.train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    if checkpointing:
        model.gradient_checkpointing_enable()
    model.zero_grad()
    losses = []
    for pads in (5, 0):
        mask = torch.ones(2, T, dtype=torch.long)
        mask[0, T - pads :] = 0
        out = model(input_ids=torch.stack([IDS, IDS.flip(0)]), attention_mask=mask).logits
        losses.append(out[mask.bool()].square().mean())
    sum(losses).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_checkpointing_gives_the_same_gradients(name):
    def error(convert):
        found = []
        for checkpointing in (False, True):
            model = tiny(name)
            convert(model)
            found.append(gradients_of_two_batches(model, checkpointing))
        return float((found[0] - found[1]).norm() / found[0].norm())

    assert error(make_bidirectional) < 1e-6
    # Computed again with the mask of another batch.
    assert error(CONVERSIONS["mask kept beside"]) > 1e-2


@pytest.mark.parametrize("training", [True, False])
def test_modes_stay(training):
    model = tiny("gpt2").train(training)
    blocks(model)[1].train(not training)
    modes = [module.training for module in model.modules()]
    opened = make_bidirectional(model)
    assert [module.training for module in model.modules()] == modes
    opened.undo()
    assert [module.training for module in model.modules()] == modes
    jamba = tiny("jamba").train(training)
    with pytest.raises(NotBidirectional):
        make_bidirectional(jamba)
    assert all(module.training == training for module in jamba.modules())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_other_precisions(name, dtype):
    model = tiny(name).to(dtype)
    with pytest.raises(NotBidirectional):
        check_bidirectional(model)
    make_bidirectional(model)
    assert {p.dtype for p in model.parameters()} == {dtype}
    if dtype != torch.float64:
        with pytest.raises(NotBidirectional, match="left padding"):  # coarse, but not blind
            make_bidirectional(tiny("bart").to(dtype))


# -- five: what an opened model does and refuses -----------------------------------------------


@pytest.mark.parametrize("name", ["llama", "gpt2", "bloom"])
def test_generation_and_caches_are_refused(name):
    from transformers import DynamicCache

    model = tiny(name, "eager")
    ids = IDS[None]
    cache = model(ids, use_cache=True).past_key_values
    plain = model.generate(ids, max_new_tokens=3, do_sample=False)
    opened = make_bidirectional(model)
    with pytest.raises(RuntimeError, match="left to right"):
        model.generate(ids)
    for body in (model, model.base_model):
        assert body(ids).get("past_key_values") is None
        assert body(ids, past_key_values=DynamicCache()) is not None  # empty
        for wrong in ({"use_cache": True}, {"past_key_values": cache}):
            with pytest.raises(ValueError, match="a cache would keep"):
                body(ids, **wrong)
    if name != "llama":
        with pytest.raises(ValueError, match="a cache would keep"):
            model(ids, cache)  # by position
    opened.undo()
    assert torch.equal(model.generate(ids, max_new_tokens=3, do_sample=False), plain)
    assert model(ids, use_cache=True).past_key_values is not None


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_packed_positions(name):
    model = tiny(name)
    make_bidirectional(model)
    row, two = IDS[None], torch.stack([IDS, IDS.flip(0)])
    packed = torch.tensor([[0, 1, 2, 0, 1, 2, 3, 4]])
    ones = torch.ones_like(two)
    for inner in (model, model.base_model):
        for wrong in ({}, {"attention_mask": ones[:1]}):
            for positions in (packed, torch.tensor([[0, 0, 0, 1, 2, 3, 4, 5]])):
                with pytest.raises(ValueError, match="start again within a row"):
                    inner(row, position_ids=positions, **wrong)
    with pytest.raises(ValueError, match="start again"):
        model(two, position_ids=packed.expand(2, -1), attention_mask=ones)
    # The caller says who may look at whom.
    document = torch.tensor([0, 0, 0, 1, 1, 1, 1, 1])
    apart = (document[:, None] == document)[None, None]
    whole = model(row, position_ids=packed, attention_mask=apart).logits[0]
    close(whole[3:], model(row[:, 3:]).logits[0], 1e-5)
    # Counted on through a row, or anyhow at pads.
    left = ones.clone()
    left[0, :3] = 0
    counted = left.cumsum(1) - 1
    for fine in (counted.clamp(min=0), counted.masked_fill(left == 0, 1)):
        model(two, position_ids=fine, attention_mask=left)
    right_pads = left.flip(1)
    counted = (right_pads.cumsum(1) - 1).masked_fill(right_pads == 0, 1)
    model(two, position_ids=counted, attention_mask=right_pads)
    model(two, position_ids=torch.arange(T)[None], attention_mask=left)  # one row for all
    with pytest.raises(ValueError, match="start again"):
        model(two, position_ids=packed, attention_mask=left)  # packed in row 1 still


def test_calling_twice_and_undoing_twice():
    model = tiny("mistral")
    logits = outputs(model, {"input_ids": IDS[None]})
    before = everything(model)
    opened = make_bidirectional(model, "half")
    assert make_bidirectional(model, "half") is opened is model.opened
    with pytest.raises(ValueError, match=r"opened already, with window='half'; undo\(\)"):
        make_bidirectional(model)
    assert make_bidirectional(model, "half") is opened
    assert opened.undo() is model and opened.undo() is model
    assert_as_before(model, before, logits)
    assert make_bidirectional(model, "none").window == "none"
    opened.undo()  # of the first time: no business of the second
    assert by_tokens(model, "one row")[1].all()
    with pytest.raises(ValueError, match="not 'full'"):
        make_bidirectional(tiny("mistral"), "full")


def copied(model, how):
    if how == "deepcopy":
        return copy.deepcopy(model)
    if how == "pickle":
        return pickle.loads(pickle.dumps(model))
    file = io.BytesIO()
    torch.save(model, file)
    return torch.load(io.BytesIO(file.getvalue()), weights_only=False)


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "torch.save"])
@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt_neo"])
def test_copies_are_open_and_close_by_themselves(name, how):
    model = tiny(name, "eager")
    closed = outputs(model, {"input_ids": IDS[None]})
    before = everything(model)
    make_bidirectional(model, "half")
    widths = model.opened.widths
    other = copied(model, how)
    given = {"input_ids": IDS[None]}
    assert torch.equal(outputs(other, given), outputs(model, given))
    assert other.opened.model is other and other.opened.widths == widths
    assert check_bidirectional(other).ok
    with pytest.raises(RuntimeError):
        other.generate(IDS[None])
    with pytest.raises(ValueError):
        other(IDS[None], use_cache=True)
    other.opened.undo()
    assert torch.equal(outputs(other, given), closed)
    assert other.generate(IDS[None], max_new_tokens=1).shape == (1, T + 1)
    assert not torch.equal(outputs(model, given), closed)
    model.opened.undo()
    assert_as_before(model, before, closed)


def test_compiled():
    model = tiny("llama")
    make_bidirectional(model)
    compiled = torch.compile(model, backend="eager")
    given = batch(model, "left padding")[1]
    close(outputs(compiled, given), outputs(model, given), 1e-6)
    with pytest.raises((ValueError, RuntimeError), match="a cache would keep"):
        compiled(IDS[None], use_cache=True)


@pytest.mark.parametrize(
    "head", ["TokenClassification", "QuestionAnswering", "SequenceClassification"]
)
def test_other_heads(head):
    import transformers

    kind = getattr(transformers, f"AutoModelFor{head}")
    model = kind.from_config(tiny("llama").config).eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(NotBidirectional):
        check_bidirectional(model)
    opened = make_bidirectional(model)
    assert check_bidirectional(model).ok
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    judge(model.base_model, (None, None))
    opened.undo()
    assert not by_tokens(model.base_model, "one row")[1].triu(1).any()


def test_only_triangles_and_bands_are_opened():
    ones = torch.ones(1, 1, 6, 6)
    lower, eye = ones.tril(), torch.eye(6)
    for mask in (lower, lower.bool(), lower - lower.tril(-3), lower.to(torch.uint8)[0, 0]):
        assert opening._is_band(mask)
    for other in (eye, ones, lower.mT, lower * 2, lower - eye, lower + eye.flip(0).tril(-1)):
        assert not opening._is_band(other)


def test_a_configuration_of_another_name_comes_back():
    from transformers import RecurrentGemmaConfig

    config = RecurrentGemmaConfig(attention_window_size=6)
    opened = Opened(None, "half")
    opened.put(config, "sliding_window", 3)
    assert config.attention_window_size == 3
    opened.undo()
    assert config.attention_window_size == config.sliding_window == 6


# -- six: bad input ----------------------------------------------------------------------------


@pytest.mark.parametrize("found", ["4.57.1", "5.3.9", "5.0.0rc1", None])
def test_transformers_too_old_or_missing(monkeypatch, found):
    def version(name):
        if found is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return found

    monkeypatch.setattr(importlib.metadata, "version", version)
    match = "converting needs transformers" if found is None else f"transformers {found} cannot"
    for ask in (lambda: make_bidirectional(tiny("llama")), lambda: Encoder("nowhere")):
        with pytest.raises(ImportError, match=f"{match}.*pip install 'transformers>=5.4'"):
            ask()


@pytest.mark.parametrize("found", ["5.4.0", "5.4.0.dev0", "5.23.0", "6.0"])
def test_transformers_new_enough(monkeypatch, found):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: found)
    make_bidirectional(tiny("llama"))


def unsuitable(kind):
    import transformers as hf

    sizes = dict(vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4)
    if kind == "encoder":
        return hf.BertModel(hf.BertConfig(**sizes, intermediate_size=32)).eval()
    if kind == "t5":
        t5 = dict(vocab_size=64, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=4)
        return hf.T5ForConditionalGeneration(hf.T5Config(**t5))
    if kind == "bart":
        sizes = {"layers": 1, "attention_heads": 4, "ffn_dim": 32}
        ends = {f"{e}_{what}": n for e in ("encoder", "decoder") for what, n in sizes.items()}
        return hf.BartModel(hf.BartConfig(vocab_size=64, d_model=32, **ends))
    if kind == "ours":
        return GPT(GPTConfig(vocab_size=64, n_positions=16, n_embd=16, n_layer=1, n_head=2))
    return {"a module": nn.Linear(2, 2), "no module": "gpt2"}[kind]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("encoder", "BertModel is bidirectional already"),
        ("t5", "T5ForConditionalGeneration is an encoder with a decoder"),
        ("bart", "BartModel is an encoder with a decoder"),
        ("ours", "GPT is no model of transformers .our GPT opens by its mask="),
        ("a module", "Linear is no model of transformers"),
        ("no module", "str is no model of transformers"),
    ],
)
def test_models_that_are_no_decoders(kind, message):
    model = unsuitable(kind)
    before = everything(model) if kind == "encoder" else None
    with pytest.raises(ValueError, match=message) as caught:
        make_bidirectional(model)
    assert not isinstance(caught.value, NotBidirectional)
    if before:
        assert_as_before(model, before, outputs(model, {"input_ids": IDS[None]}))


@pytest.mark.parametrize("backend", ["flash_attention_2", "flash_attention_3", "flex_attention"])
def test_backends_that_a_cpu_cannot_run(backend):
    model = tiny("llama")
    model.config._attn_implementation = backend
    with pytest.raises(ValueError, match=f"LlamaForCausalLM asks for {backend}.*'sdpa'"):
        make_bidirectional(model)


def test_an_interrupted_attempt_leaves_nothing(monkeypatch):
    for error, raised in ((KeyboardInterrupt, KeyboardInterrupt), (OSError, NotBidirectional)):
        model = tiny("mistral")
        logits, before = outputs(model, {"input_ids": IDS[None]}), everything(model)

        def stop(model, error=error):
            raise error("stop")

        monkeypatch.setattr(opening, "check_bidirectional", stop)
        with pytest.raises(raised, match="stop"):
            make_bidirectional(model, "half")
        assert_as_before(model, before, logits)


def test_a_model_that_takes_no_mask_is_refused():
    model = tiny("llama")
    make_bidirectional(model)
    plain = model.forward
    model.forward = lambda input_ids, position_ids=None: plain(input_ids)
    with pytest.raises(NotBidirectional, match="takes no attention_mask"):
        check_bidirectional(model)


def test_the_refusal_holds_its_report():
    with pytest.raises(NotBidirectional) as caught:
        check_bidirectional(tiny("gpt2"))
    error = caught.value
    assert str(error) == (
        "GPT2LMHeadModel: transformer.h.0.attn, one row: token 0 does not see token 1 "
        "(28 wrong pairs) (and 11 more)"
    )
    assert error.report.first == "transformer.h.0.attn, one row" and not error.report.ok
    assert error.report.drawing().splitlines()[1].split() == ["0", "#", *"ooooooo"]


# -- seven: the encoder ------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["llama", "gpt2", "mistral"])
def folder(request, tmp_path_factory):
    """A folder with a language modelling head, as most folders on the hub."""
    path = tmp_path_factory.mktemp(request.param)
    tiny(request.param).save_pretrained(path)
    return path


def test_an_encoder_is_the_opened_model(folder, tmp_path):
    from transformers import AutoModel

    encoder = Encoder(folder)
    assert not encoder.training and not encoder.model.training
    body = AutoModel.from_pretrained(folder).eval()
    make_bidirectional(body)
    for case in CASES:
        valid, given = batch(body, case)
        wanted = outputs(body, given)
        given.pop("position_ids", None)  # it counts by itself
        with torch.no_grad():
            got = encoder(given["input_ids"], given.get("attention_mask"))
        assert got.shape == (*given["input_ids"].shape, 32)
        close(got[0][valid].double(), wanted[valid], 1e-6)
        with torch.no_grad():
            close(got[0][valid], encoder(IDS[valid][None])[0], 1e-5)
    encoder.save(tmp_path)
    again = Encoder(tmp_path)
    assert again.opened.widths == encoder.opened.widths
    with torch.no_grad():
        assert torch.equal(again(IDS[None]), encoder(IDS[None]))


def test_an_encoder_can_be_trained(folder):
    encoder = Encoder(folder, "none", attn_implementation="eager", dtype=torch.float32).train()
    assert encoder.config._attn_implementation == "eager" and encoder.opened.window == "none"
    mask = torch.ones(2, T, dtype=torch.long)
    mask[1, :3] = 0
    hidden = encoder(torch.stack([IDS, IDS.flip(0)]), mask)
    hidden[mask.bool()].square().sum().backward()
    for name, weight in encoder.named_parameters():
        assert weight.grad is not None and weight.grad.isfinite().all(), name
        assert weight.grad.any() or "k_proj.bias" in name, name
    encoder.eval()
    first = encoder(IDS[None])[0, 0]
    other = IDS.clone()
    other[-1] += 1
    assert not torch.equal(encoder(other[None])[0, 0], first)


def test_an_encoder_from_nothing(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "typeless").mkdir()
    (tmp_path / "typeless" / "config.json").write_text("{}")
    for name in ("empty", "typeless", "missing"):
        with pytest.raises(ValueError, match=f"{name} is no model that can be loaded"):
            Encoder(tmp_path / name)
    with pytest.raises(ValueError, match=r"no-such-model-\w+ is no model"):
        Encoder("no-such-model-anywhere")
    tiny("mamba", "eager").save_pretrained(tmp_path / "mamba")
    with pytest.raises(NotBidirectional, match="no attention module"):
        Encoder(tmp_path / "mamba")
    tiny("llama").save_pretrained(tmp_path / "llama")
    with pytest.raises(ValueError, match="flash_attention_2 does not run on a CPU"):
        Encoder(tmp_path / "llama", attn_implementation="flash_attention_2")


def test_an_encoder_runs_no_code_of_others(tmp_path):
    ran = tmp_path / "ran"
    config = '{"model_type": "mine", "auto_map": {"AutoConfig": "m.C", "AutoModel": "m.M"}}'
    (tmp_path / "config.json").write_text(config)
    (tmp_path / "m.py").write_text(f"open({str(ran)!r}, 'w')\nclass C: pass\n")
    with pytest.raises(ValueError):
        Encoder(tmp_path)
    assert not ran.exists()


@pytest.mark.parametrize("size", [40, 65, 100, 4096])
@pytest.mark.parametrize("window", ["both", "half", "none"])
def test_windows_that_are_longer_than_the_check_are_no_reason_to_refuse(size, window):
    import transformers

    sizes = dict(vocab_size=90, hidden_size=16, intermediate_size=16, num_hidden_layers=1)
    config = transformers.MistralConfig(
        **sizes, num_attention_heads=2, num_key_value_heads=1, sliding_window=size
    )
    model = transformers.MistralModel(config).eval()
    opened = make_bidirectional(model, window)
    check_bidirectional(model)
    seen = {"both": size, "half": size // 2, "none": None}[window] if size <= 64 else None
    assert opened.widths == [seen] and opened.undo() is model
