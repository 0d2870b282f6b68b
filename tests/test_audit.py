"""The audit: every mixer and the whole model, alone and beside pads, and what it says."""

import json
import time

import pytest
import tiny
import torch

from mylib import masks, zoo
from mylib.__main__ import main
from mylib.cases import some_ids
from mylib.gazette import Gazette
from mylib.leaks import audit, influence
from mylib.masks import Mask
from mylib.probes import NotFinite
from mylib.reports import Report

T = 7
IDS = torch.arange(6, 6 + T)
EYE = torch.eye(3, dtype=torch.bool)


class Padded(tiny.Toy):
    """The same, also told which tokens are real: (B, T, 1) of ones and zeros."""

    def forward(self, ids, attention_mask=None):
        real = torch.ones_like(ids) if attention_mask is None else attention_mask
        return self.then(self.embed(ids), real[..., None].float())


# -- our models and plain callables ------------------------------------------------------------


def test_audit_of_our_model_under_its_mask():
    model = tiny.gpt(vocab_size=24)
    causal = audit(model, "causal")
    assert causal.ok and str(causal) == "causal: as expected in 3 checks"
    assert set(causal.cases) == {
        "whole model, one row",
        "h.0.attn, one row",
        "h.1.attn, one row",
    }
    assert audit(model, "bidirectional", mask=masks.bidirectional).ok
    opened = audit(model, "causal", mask=masks.bidirectional)
    assert str(opened) == (
        "NOT causal: whole model, one row: token 0 sees token 1 (28 wrong pairs) (and 2 more)"
    )
    closed = audit(model, "bidirectional")
    assert "token 0 does not see token 1" in str(closed)


def test_audit_by_any_mask():
    window = masks.sliding_window(2, 1)
    assert audit(tiny.gpt(vocab_size=24), window, mask=window).ok
    assert audit(zoo.tiny("mistral"), masks.sliding_window(3, 0)).ok
    narrower = audit(tiny.gpt(vocab_size=24), window, mask=masks.sliding_window(1, 1))
    assert "h.0.attn, one row: token 2 does not see token 0" in "".join(narrower.problems)
    for wrong in (masks.sliding_window(4, 0), masks.sliding_window(2, 0), "causal"):
        assert not audit(zoo.tiny("mistral"), wrong).ok
    per_head = Mask(lambda b, h, q, k: (k <= q) & (h == 0), "per head")
    with pytest.raises(ValueError, match="differs from head to head"):
        audit(tiny.gpt(), per_head)


def test_a_token_may_always_see_itself_past_the_attention():
    strict = Mask(lambda b, h, q, k: q > k, "strict")
    assert audit(tiny.gpt(vocab_size=24), strict, mask=strict).ok
    assert not audit(tiny.gpt(vocab_size=24), strict, mask=masks.bidirectional).ok


def test_audit_of_plain_callables():
    oracle = Gazette.load()

    def mean_of_all(ids):
        return ids.double().mean(1, keepdim=True).expand_as(ids)[..., None]

    def running(ids):
        return ids.double().cumsum(1)[..., None]

    assert audit(mean_of_all, "bidirectional").ok and not audit(mean_of_all, "causal").ok
    assert audit(running, "causal").ok and not audit(running, "bidirectional").ok
    (text,) = oracle.sample(1, torch.Generator().manual_seed(1))
    assert not audit(oracle.causal, "bidirectional", text[:6]).ok
    with pytest.raises(ValueError, match="'open'"):
        audit(running, "open")


def test_one_opened_layer_is_named_although_the_whole_model_looks_bidirectional():
    model = tiny.gpt(vocab_size=24, n_layer=3)
    attention = model.h[1].attn
    plain = attention.forward
    attention.forward = lambda x, visible, cache=None, layer=0: plain(
        x, torch.ones(1, 1, x.shape[1], x.shape[1]).bool(), cache, layer
    )
    # Causal below and above: the last token still reaches the first, through one layer.
    assert influence(model, IDS).all()
    report = audit(model, "bidirectional")
    assert not report.ok and [p.split(",")[0] for p in report.problems] == ["h.0.attn", "h.2.attn"]
    report = audit(model, "causal")
    assert [p.split(",")[0] for p in report.problems] == ["whole model", "h.1.attn"]
    assert report.first == "h.1.attn, one row"


def test_a_tensor_among_the_inputs_fits_one_row_of_one_length():
    for expected in ("causal", "bidirectional"):
        report = audit(zoo.tiny("gpt2"), expected, attention_mask=torch.ones(1, 8).long())
        assert report.ok == (expected == "causal") and len(report.cases) == 3
    positions = torch.arange(8)[None]
    report = audit(zoo.tiny("llama"), "causal", position_ids=positions)
    assert report.ok and len(report.cases) == 12


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_coarse_numbers_are_no_leak(dtype):
    model = zoo.tiny("qwen3").to(dtype)
    assert audit(model, "causal").ok
    assert not audit(model, "bidirectional").ok


# -- padding -----------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", zoo.BACKENDS)
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_audit_of_hugging_face_models_with_padding(name, backend):
    model = zoo.tiny(name, backend).train()
    report = audit(model, "causal")
    assert report.ok and model.training
    layers = ["transformer.h.{}.attn", "model.layers.{}.self_attn"][name == "llama"]
    where = ["whole model", layers.format(0), layers.format(1)]
    cases = ("one row", "no padding", "right padding", "left padding")
    assert list(report.cases) == [f"{place}, {case}" for case in cases for place in where]
    wrong = audit(model, "bidirectional")
    assert len(wrong.problems) == 12 and "token 0 does not see token 1" in wrong.problems[0]


def test_an_encoder_is_bidirectional():
    from transformers import BertConfig, BertModel

    sizes = dict(vocab_size=24, hidden_size=16, num_hidden_layers=2, num_attention_heads=2)
    model = BertModel(BertConfig(**sizes, intermediate_size=32)).eval()
    for weight in model.parameters():
        weight.data += 0.25 * torch.randn(weight.shape)
    assert audit(model, "bidirectional").ok
    assert "token 0 sees token 1" in str(audit(model, "causal"))


def test_a_pad_that_is_seen_is_named():
    model = zoo.tiny("gpt2")
    model.forward, plain = (
        lambda input_ids, attention_mask=None, **more: plain(input_ids, **more),
        model.forward,
    )
    report = audit(model, "causal")
    assert "left padding: token 2 sees the pad at 0" in "".join(report.problems)
    assert not any("one row" in problem for problem in report.problems)
    assert not any("without its pads" in problem for problem in report.problems)


def test_pads_that_move_without_being_seen():
    """What no gradient carries: a choice made by the pads, their number, the rest of the batch."""

    def chosen(x, real):
        return (x * real).cumsum(1) + (x * (1 - real)).sum(1, keepdim=True).sign()

    def counted(x, real):
        return (x * real).cumsum(1) * x.shape[1]

    def together(x, real):
        return (x * real).cumsum(1) * len(x)

    first = audit(Padded(chosen), "causal").problems[0]
    assert first == "whole model, right padding: token 0 sees the pad at 6 (12 wrong pairs)"
    report = audit(Padded(counted), masks.causal)
    assert report.problems == ["right padding: without its pads the row has other outputs"]
    assert report.notes == [
        "left padding: without its pads the row has other outputs (perhaps its positions are "
        "counted through the pads)"
    ]
    assert (
        "no padding: the row has other outputs than alone"
        in audit(Padded(together), "causal").problems
    )
    fine = audit(Padded(lambda x, real: (x * real).cumsum(1)), "causal")
    assert fine.ok and not fine.notes and len(fine.cases) == 4


def test_positions_counted_through_left_pads_are_a_note():
    report = audit(zoo.tiny("bart"), "causal")
    assert report.ok and len(report.notes) == 1 and "left padding" in report.notes[0]
    assert not audit(zoo.tiny("opt"), "causal").notes


def test_nan_in_one_case_is_a_problem_and_everywhere_an_error():
    def broken(when):
        def then(x, real):
            out = (x * real).cumsum(1)
            return out / 0.0 * 0.0 if when(real) else out

        return Padded(then)

    report = audit(broken(lambda real: not real[0, 0].all()), "causal")
    (problem,) = report.problems
    assert problem.startswith("left padding: ") and "NaN" in problem and len(report.cases) == 3
    with pytest.raises(NotFinite, match="one row: the output holds NaN"):
        audit(broken(lambda real: True), "causal")


# -- every mixer -------------------------------------------------------------------------------


def test_one_mask_for_each_mixer():
    model = zoo.tiny("gemma2", "eager")
    window = masks.sliding_window(zoo.WINDOW - 1, 0)
    right = audit(model, [window, masks.causal])
    assert right.ok and right.expected == "window(3, 0), causal" and len(right.cases) == 12
    swapped = audit(model, [masks.causal, window])
    assert swapped.first == "model.layers.0.self_attn, one row"
    assert "token 4 does not see token 0" in "".join(swapped.problems)
    with pytest.raises(ValueError, match="one row: 3 masks are expected, but 2 modules mix"):
        audit(model, [window, masks.causal, masks.causal])
    with pytest.raises(ValueError, match="it is empty"):
        audit(model, [])


def test_a_saturated_softmax_is_not_refused():
    for backend in zoo.BACKENDS:
        model = zoo.tiny("llama", backend)
        for layer in model.model.layers:
            layer.self_attn.q_proj.weight.data *= 64
        assert not any("self_attn" in line for line in audit(model, "causal").problems)
        assert not audit(model, "bidirectional").ok


def test_expert_choice_is_found():
    """Each expert takes its best tokens: who is taken depends on the later ones."""

    def expert_choice(self, x):
        scores = x.sum(-1)
        best = scores.topk(3, dim=1).indices
        taken = torch.zeros_like(scores).scatter(1, best, 1.0)
        return x.cumsum(1) + taken[..., None]

    model = tiny.Toy(expert_choice)
    assert not influence(model, IDS).triu(1).any()  # no gradient goes through a choice
    report = audit(model, "causal", IDS)
    assert not report.ok and report.problems[0].startswith("whole model, one row: token")
    assert " sees token " in report.problems[0]


def test_round_off_is_called_so():
    def by_fourier(self, x):
        kernel = torch.linspace(1, 0.3, x.shape[1]).to(x)
        size = 2 * x.shape[1]
        product = torch.fft.rfft(x, size, dim=1) * torch.fft.rfft(kernel, size)[None, :, None]
        return torch.fft.irfft(product, size, dim=1)[:, : x.shape[1]]

    report = audit(tiny.Toy(by_fourier), "causal", IDS)
    assert "of the strongest: round-off?)" in report.problems[0]
    future = audit(
        tiny.Toy(lambda self, x: x.cumsum(1) + 1e-3 * x.sum(1, keepdim=True)), "causal", IDS
    )
    assert not future.ok and "round-off" not in str(future)


def test_the_text_holds_no_pad():
    model = zoo.tiny("gpt2")
    for pad, wanted in ((0, [1, 2, 3]), (1, [2, 3, 4]), (3, [1, 2, 4]), (None, [1, 2, 3])):
        model.config.pad_token_id = pad
        assert some_ids(model, 3).tolist() == wanted


def test_what_tells_the_length():
    report = audit(tiny.Toy(lambda self, x: x.cumsum(1) / x.shape[1]), "causal", IDS)
    assert report.problems == ["cut after token 2: output 0 changes, so something tells the length"]
    # It is cut at two places: of seven tokens, after three and after six.
    for changed in (lambda length: length % 2 == 0, lambda length: length < 5):
        model = tiny.Toy(lambda self, x, changed=changed: x.cumsum(1) + changed(x.shape[1]))
        assert not audit(model, "causal", IDS).ok
    # Only where nothing later may be seen: another model may know how long its text is.
    assert audit(tiny.Toy(lambda self, x: x.sum(1, keepdim=True) / x + 1), "bidirectional", IDS).ok


# -- the report --------------------------------------------------------------------------------


def test_drawing_and_dictionary_exactly():
    def model(ids):  # 0 sees 0 and 1; 1 sees 1 only; 2 sees 1 and 2
        x = ids.double()
        return torch.stack([x[:, 0] + x[:, 1], x[:, 1], x[:, 1] + x[:, 2]], 1)[..., None]

    report = audit(model, masks.causal, torch.tensor([5, 6, 7]))
    assert report.drawing() == (
        "whole model, one row: # sees, . does not, X sees and must not, "
        "o must see and does not\n"
        "   0  # X .\n"
        "   1  o # .\n"
        "   2  o # #"
    )
    problem = "whole model, one row: token 0 sees token 1 (3 wrong pairs)"
    assert report.as_dict() == {
        "expected": "causal",
        "ok": False,
        "problems": [problem],
        "notes": [],
        "cases": [
            {
                "case": "whole model, one row",
                "ok": False,
                "wrong_pairs": 3,
                "first": {"output": 0, "input": 1, "sees": True},
            }
        ],
    }
    assert str(report) == f"NOT causal: {problem}"
    assert json.loads(json.dumps(report.as_dict())) == report.as_dict()


def test_seeing_too_much_is_told_before_seeing_too_little():
    def model(ids):  # 0 sees nothing, 1 sees 2
        x = ids.double()
        return torch.stack([0 * x[:, 0], x[:, 0] + x[:, 1] + x[:, 2], x.sum(1)], 1)[..., None]

    report = audit(model, masks.causal, torch.tensor([5, 6, 7]))
    assert "token 1 sees token 2 (2 wrong pairs)" in str(report)
    assert report.pair("whole model, one row") == (1, 2)
    assert report.as_dict()["cases"][0]["first"] == {"output": 1, "input": 2, "sees": True}


def test_the_first_wrong_case_is_a_mixer_if_there_is_one():
    report = Report("causal")
    assert report.ok and report.first is None and report.drawing() == ""
    for name, wrong in (("whole model, x", EYE), ("h.0, x", ~EYE & False), ("h.1, x", EYE)):
        report.cases[name] = EYE
        report.wrong[name] = wrong
    assert report.first == "h.1, x"
    del report.wrong["h.1, x"]
    assert report.first == "whole model, x"
    assert report.drawing("h.0, x").splitlines()[1:] == [
        "   0  # . .",
        "   1  . # .",
        "   2  . . #",
    ]
    report.problems = ["a", "b", "c"]
    assert not report.ok and str(report) == "NOT causal: a (and 2 more)"


# -- the command -------------------------------------------------------------------------------


def command(capsys, *arguments):
    code = main(["audit", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("mistral")
    zoo.tiny("mistral").save_pretrained(path)
    return path


def test_json_of_the_command(folder, tmp_path, capsys):
    capsys.readouterr()
    code, out, _ = command(capsys, folder, "--expect", "causal", "--json")
    told = json.loads(out)
    # Its window of four shows in eight tokens, and not in four.
    assert code == 1 and told["ok"] is False and told["length"] == 8
    assert told["model"] == str(folder) and len(told["cases"]) == 12
    assert "layers.0.self_attn, one row: token 4 does not see" in "".join(told["problems"])
    code, out, _ = command(capsys, folder, "--expect", "causal", "--json", "--length", 4)
    assert code == 0 and json.loads(out)["ok"] and json.loads(out)["length"] == 4
    code, out, _ = command(capsys, folder, "--expect", "bidirectional", "--length", "4")
    assert code == 1 and out.count("  also: ") == 11 and "# o o o" in out


def test_backends_of_the_command(folder, tmp_path, capsys):
    for backend in zoo.BACKENDS:
        asked = ("--expect", "causal", "--length", "4", "--backend", backend)
        assert command(capsys, folder, *asked)[0] == 0
    code, out, err = command(capsys, folder, "--expect", "causal", "--backend", "nonsense")
    assert code == 2 and not out and "nonsense" in err
    ours = tmp_path / "ours.safetensors"
    tiny.gpt(vocab_size=24).save(ours)
    code, out, err = command(capsys, ours, "--expect", "causal", "--backend", "eager")
    assert code == 2 and not out and "--backend is for models of transformers" in err
    code, out, err = command(capsys, ours, "--expect", "causal", "--length", "1")
    assert code == 2 and "at least 2" in err
    code, out, _ = command(capsys, ours, "--expect", "causal", "--length", "2", "--json")
    assert code == 0 and json.loads(out)["length"] == 2


def test_the_backend_is_the_one_that_is_judged(folder):
    from mylib.commands.audit import load

    for backend in zoo.BACKENDS:
        model, inputs = load(folder, None, backend)
        assert model.config._attn_implementation == backend and inputs == {}


def test_a_note_is_no_failure_of_the_command(tmp_path, capsys):
    zoo.tiny("biogpt").save_pretrained(tmp_path)
    capsys.readouterr()
    assert command(capsys, tmp_path, "--expect", "causal")[0] == 0


def test_a_gpt2_of_124_million_weights_takes_seconds():
    """Five, or on a slow machine no more than 25 readings of 64 tokens (measured: 18)."""
    from transformers import GPT2Config, GPT2Model

    model = GPT2Model(GPT2Config()).eval()

    def processor_time(work):
        start = time.process_time()
        work()
        return time.process_time() - start

    @torch.no_grad()
    def read():
        model(torch.arange(64)[None])

    for _ in range(4):  # the machine may be busy
        one = min(processor_time(read) for _ in range(5))
        reports: list = []
        spent = processor_time(lambda found=reports: found.append(audit(model, "causal")))
        assert reports[0].ok
        if spent < max(5, 25 * one):
            return
    raise AssertionError(f"{spent:.1f} s of processor time")
