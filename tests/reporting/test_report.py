"""The report: claims, what is mixed, pictures that stay small, and nothing that data can inject."""

import base64
import json
import re
import subprocess
import sys
from io import BytesIO

import numpy as np
import pandas as pd
import pytest
import yaml
from helpers.configurations import ROOT
from helpers.reports import COST_CLAIMS, LLM, RUN, part, write_results, write_run
from PIL import Image

from mend.configuration.claims import CostClaim
from mend.configuration.loading import load_configuration, read_values
from mend.configuration.report_spec import report_files, report_specification
from mend.errors import UserError
from mend.paper import paper_table
from mend.reporting.claims import cost_judgements
from mend.reporting.report import judged_claims, read_tables, write_report
from mend.reporting.report.pictures import embedded
from mend.reporting.report.runs import read_benchmarks, warnings
from mend.reporting.training_costs import read_record


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    spec = write_results(folder)
    write_report(spec, folder / "report.html")
    return (folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def default():
    values = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
    return load_configuration(values, ["config.yaml"])


def records_of(spec):
    return {stage: read_record(f"{spec.results}/{stage}/record.json") for stage in spec.stages}


def claims_of(spec):
    return judged_claims(spec, read_tables(spec, records_of(spec)))


def plain(html):
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", html))


def test_the_page_says_what_text_was_pretrained_on(page):
    assert "Text of pretraining: documents of a test." in plain(page)


def test_text_from_data_is_text(page):
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "&lt;script&gt;alert(2)&lt;/script&gt;" in page
    assert "<h2>Mine &lt;script&gt;</h2>" in page
    assert "\\u003c/code\\u003e\\u003cscript\\u003e" in page


def test_nothing_is_loaded_from_elsewhere(page):
    assert not re.search(r"(src|href)=\"(?!#|data:image/png;base64,)", page)
    assert "url(" not in page
    assert "@import" not in page
    assert len(page.encode()) < 5_000_000


def test_what_was_cut_is_listed_by_task(tmp_path):
    spec = write_results(tmp_path)
    write_report(spec, tmp_path / "report.html")
    assert "every query, answer and demonstration was read whole" in plain(
        (tmp_path / "report.html").read_text(encoding="utf-8")
    )
    record = tmp_path / spec.stages[0] / "record.json"
    content = json.loads(record.read_text(encoding="utf-8"))
    counts = {"queries": 2000, "queries_cut": 250, "demonstrations": 32000, "answers_cut": 0}
    record.write_text(json.dumps(content | {"cuts": {"a <task>": counts}}))
    write_report(spec, tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "a &lt;task&gt;" in html
    assert '<span title="250 of 2,000">12.5 %</span>' in html


def test_the_main_result_is_said_with_its_numbers(page):
    text = plain(page)
    assert "MEND scores 50.0 %" in text
    assert "10.0 points below Vanilla ICL (95 % interval −12.0 to −8.0)" in text
    assert "5.0 points above HyperTuning (95 % interval 3.0 to 7.0)" in text
    assert "9 could be judged here: 5 hold, 2 do not, and 2 are not clear" in text


def test_claims_are_those_of_the_paper_in_its_order_then_ours(tmp_path):
    spec = write_results(tmp_path)
    claims = claims_of(spec)
    listed = [(row["study"], row["text"]) for row in paper_table("claims").to_dict("records")]
    assert [(claim.study, claim.text) for claim in claims[:-1]] == listed
    found = {(claim.study, claim.text): claim for claim in claims}
    above = found["table2", "MEND is above HyperTuning"]
    assert (above.verdict, above.ours["mean"], above.paper) == ("holds", 5, "+2.93")
    match = found["table2", "MEND is within 2 points of vanilla ICL, or above it"]
    assert (match.verdict, match.note) == ("does not hold", "bar at −2")
    assert found["table2", "Vanilla ICL is above zero-shot"].verdict == "not clear"
    assert found["table2", "Prompt tuning is above zero-shot"].verdict == "not run"
    assert found["table3", "Random labels are worse than right ones"].verdict == "not run"
    families = found["families", "A distiller of the LLM's own family works best"]
    assert families.verdict == "not judged"
    assert families.note.startswith("cannot be tried: a distiller with another tokenizer")
    pretraining = found["table4", "Pretraining helps"]
    assert (pretraining.verdict, pretraining.ours["mean"]) == ("not clear", -1)
    assert pretraining.note == "at 1 of 2; least: K = 1"
    assert claims[-1].text == "<script>alert(2)</script>"
    assert claims[-1].where == "beyond the paper"


def test_costs_are_judged_at_each_partition(tmp_path):
    claims = claims_of(write_results(tmp_path))
    found = {claim.text: claim for claim in claims if claim.study == "figure3"}
    fewer, memory, time, par = (found[claim["text"]] for claim in COST_CLAIMS)
    assert (fewer.verdict, fewer.share) == ("holds", "0.40 times")
    assert fewer.note == "Vanilla ICL’s, at 2 of 2 partitions"
    assert memory.verdict == "holds"
    assert time.verdict == "not run"
    assert (par.verdict, par.share) == ("does not hold", "2.00 times")
    assert par.note == "Prompt tuning’s, at 0 of 2 partitions"


@pytest.mark.parametrize(("times", "verdict"), [(0.6, "holds"), (0.4, "does not hold")])
def test_what_is_claimed_up_to_so_much_holds_where_it_does_at_one_partition(times, verdict):
    costs = {"a": (50, 100), "b": (90, 100)}
    drawn = pd.DataFrame(
        [
            {"llm": "x", "panel": "flops", "part": "total", "partition": p, "method": m, "value": v}
            for p, values in costs.items()
            for m, v in zip(("mend", "vanilla-icl"), values, strict=True)
        ]
    )
    claim = CostClaim(
        text="t", quantity="flops", lower="mend", higher="vanilla-icl", times=times, up_to=True
    )
    [judged] = cost_judgements([claim], drawn, {})
    assert (judged.verdict, judged.share) == (verdict, "0.50 to 0.90 times")
    assert judged.note == f"Vanilla ICL’s, at {int(times > 0.5)} of 2 partitions"
    everywhere = claim.model_copy(update={"up_to": False})
    assert [found.verdict for found in cost_judgements([everywhere], drawn, {})] == [
        "does not hold"
    ]


def test_the_number_of_claims_is_said_to_matter(page):
    text = plain(page)
    [number] = re.findall(r"nothing corrects for there being (\d+) of them with an interval", text)
    # Five of table 2, one of table 4 and one beyond the paper; costs have no interval.
    assert int(number) == 7
    assert "about 1 would be told to hold or not to hold by chance" in text


def test_pictures_without_numbers_are_left_to_the_reader(tmp_path):
    parts = [part("table2", ["table2"]), part("figure5", pictures=["figure5"])]
    claims = claims_of(write_results(tmp_path, parts=parts))
    assert [claim.verdict for claim in claims if claim.study == "figure5"] == ["not judged"]


def test_what_is_absent_is_named(page):
    assert "Not in this configuration, so not here: Table 3, Figure 5." in plain(page)


def test_only_training_and_only_table_2_is_enough(tmp_path):
    parts = [part("table2", ["table2"])]
    spec = write_results(tmp_path, parts=parts, stages=[], study_stages={})
    write_report(spec, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert 'id="table2"' in page


def test_all_that_are_best_are_named(tmp_path):
    parts = [part("table2", ["table2"])]
    spec = write_results(tmp_path, parts=parts, stages=[], study_stages={})
    (tmp_path / "table2.details.json").write_text(json.dumps({"claims": [], "other_mean": []}))
    table = pd.read_parquet(tmp_path / "table2.parquet")
    for equal, told in ((False, "is the best with"), (True, "and MEND are the best with")):
        if equal:
            table["mean"] = 13.9
            table.to_parquet(tmp_path / "table2.parquet")
        write_report(spec, tmp_path / "report.html")
        assert told in plain((tmp_path / "report.html").read_text(encoding="utf-8"))


def test_a_file_that_is_missing_is_named(tmp_path):
    spec = write_results(tmp_path)
    (tmp_path / "table4.parquet").write_text("half a table")
    with pytest.raises(UserError, match=r"table4\.parquet: not a Parquet file of a study"):
        write_report(spec, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_mixed_code_and_commits_are_told(tmp_path):
    spec = write_results(tmp_path)

    def told():
        return warnings(records_of(spec), read_benchmarks(tmp_path))

    assert told() == []
    write_run(tmp_path, f"{RUN}/pretrain", commit="bbbb")
    assert told() == [
        "Training runs are of 2 commits, though what they run did not change between these."
    ]
    # A run whose job was not measured here may have had any code.
    benchmark = tmp_path / "benchmarks" / RUN / "pretrain.jsonl"
    text = benchmark.read_text()
    benchmark.unlink()
    assert told() == ["Training runs are of 2 commits."]
    benchmark.write_text(text)
    write_run(tmp_path, "runs/llm/mend/length=4/pretrain", commit="bbbb", code="2")
    spec.stages.append("runs/llm/mend/length=4/pretrain")
    assert told() == [
        "Jobs of one kind ran with different code: pretrain of mend.",
        "Training runs are of 2 commits.",
    ]
    write_report(spec, tmp_path / "report.html")
    assert "Mixed results." in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_costs_and_times_are_added_up(page):
    text = plain(page)
    assert re.search(r"Pretraining 1 2\.00 – 3 ", text)
    assert re.search(r"Both 2 4\.00 – 6 ", text)
    assert re.search(r"pretrain 1 (90|91) (90|91) 300", text)


def test_the_share_of_the_peak_is_told_and_drawn(page):
    rows = re.findall(r"<tr>\s*<th[^>]*>MEND</th>.*?</tr>", page, flags=re.DOTALL)
    found = [row for row in rows if "finetune" in row and "3e+03" in row]
    assert found
    assert all(">38.4 %<svg" in row and 'width="38.4"' in row for row in found)
    assert all("<svg" not in row for row in rows if "pretrain" in row and "3e+03" in row)


def test_a_picture_takes_no_more_than_it_may(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (300, 800, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    small = embedded(tmp_path / "noise.png", 100_000)
    assert len(small["uri"]) < 100_100
    assert small["width"] / small["height"] == pytest.approx(800 / 300, rel=0.02)
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(UserError, match=r"text\.png: not a picture"):
        embedded(tmp_path / "text.png", 1000)


def test_colours_that_few_points_have_stay_apart(tmp_path):
    # Many shades of blue and green, as where intervals lie over each other, and two thin lines.
    place = np.mgrid[0:300, 0:800]
    shades = np.stack([place[0] // 8, place[1] // 4, 255 - place[0] // 2], -1).astype(np.uint8)
    lines = {10: (213, 94, 0), 20: (222, 143, 5)}
    for row, colour in lines.items():
        shades[row : row + 2, 100:160] = colour
    Image.fromarray(shades).save(tmp_path / "shades.png")
    uri = embedded(tmp_path / "shades.png", 500_000)["uri"]
    shown = Image.open(BytesIO(base64.b64decode(uri.split(",")[1]))).convert("RGB")
    for row, colour in lines.items():
        assert np.abs(np.subtract(shown.getpixel((130, row)), colour)).max() <= 24


def test_a_picture_of_several_studies_says_what_its_panels_are(tmp_path):
    write_results(tmp_path)
    (tmp_path / "figure4.png").write_bytes((tmp_path / "figure3.png").read_bytes())
    for studies, said in ((["table4", "table2"], True), (["table4"], False)):
        shown = part("figure4", ["table4"], pictures=["figure4"], studies=studies)
        parts = [part("table2", ["table2"]), shown]
        write_report(write_results(tmp_path, parts=parts), tmp_path / "report.html")
        text = (tmp_path / "report.html").read_text(encoding="utf-8")
        links = '(a) <a href="#table4">Table 4</a>; (b) <a href="#table2">Table 2</a>.'
        assert (links in text) == said


def test_pictures_of_runs_say_how_to_read_them(tmp_path):
    names = ["table2.learning-curves", "table2.divergence"]
    parts = [part("table2", ["table2"], pictures=names, commands=["one", "other"])]
    spec = write_results(tmp_path, parts=parts)
    for name in names:
        (tmp_path / f"{name}.png").write_bytes((tmp_path / "figure3.png").read_bytes())
    write_report(spec, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    for name, head, said in zip(
        names,
        ("Learning curves", "Divergence from the teacher"),
        ("by the examples that were seen", "KL(teacher ‖ student) in nats"),
        strict=True,
    ):
        section = text[text.index(f'<h3 id="{name}">{head}</h3>') :]
        assert said in section[: section.index("<img")]
    assert "To get these pictures again" in text
    assert "<pre><code>one\nother</code></pre>" in text


def test_parts_are_in_the_papers_order(default):
    spec = report_specification(default)
    names = [part.name for part in spec.parts]
    shown = {part.name: part.studies for part in spec.parts}
    assert shown["figure4"] == ["shots", "length", "context-length"]
    assert shown["table3"] == []
    assert names[:5] == ["table1", "table2", "figure3", "figure4", "table3"]
    assert names[-4:] == ["equal-tokens", "beyond-window", "compressors", "many-shot"]
    assert spec.absent == []
    tables = [table for part in spec.parts for table in part.tables]
    assert sorted(tables) == sorted({*default.values.studies, "table1", "table5"})
    files = report_files(default)
    assert {"shots.details.json", "figure4.png", "table2.parquet", "figure3.parquet"} <= {*files}
    assert "runs/pocket-gpt2/mend/default/pretrain/record.json" in files
    table2 = next(part for part in spec.parts if part.name == "table2")
    assert "table2.learning-curves" in table2.pictures
    assert "table2.learning-curves.png" in files
    assert len(files) == len(set(files))


def test_choices_that_are_not_the_defaults_are_listed(default):
    found = {row.key: row for row in report_specification(default).differences}
    chunks = found["protocol.pretraining_chunks"]
    assert (chunks.value, chunks.default) == ("per-document", "fixed-windows")
    assert "protocol.separators" not in found


def test_what_a_preset_says_of_each_llm_is_compared_with_what_the_default_says_of_it(monkeypatch):
    monkeypatch.chdir(ROOT)
    values = read_values("config/paper.yaml")
    assert report_specification(load_configuration(values)).differences == []
    values["protocol"] = {"preset": "paper"}
    found = {row.key: row for row in report_specification(load_configuration(values)).differences}
    dtype = found["llms.gpt2-xl.dtype"]
    assert (dtype.value, dtype.default) == ("float16", "bfloat16")
    assert found["llms.gpt2-xl.int8"].value is True
    assert "llms.t5-lm-large.dtype" not in found  # float32 in both


def test_the_report_does_without_torch():
    code = "import mend.reporting.report, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_one_llm_is_named_in_the_main_result_only_as_text(page):
    assert LLM not in page
