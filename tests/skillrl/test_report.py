import html
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

from episodes import make_episode

from skillrl.evaluate import TaskScore, summarise
from skillrl.metrics import Metrics
from skillrl.report import curves, episode_html, unsafe_outcomes, write_report
from skillrl.rollout.records import write_episodes
from skillrl.types import Outcome, Turn

EVIL = '<script>alert("1")</script><img src="http://evil/x.png">&lt;'


def episode():
    texts = [
        ("user", "Fix it."),
        ("assistant", f"<|call|>bash<|arg|>echo '{EVIL}'<|end|>"),
        ("tool", EVIL),
        ("assistant", "<|call|>str_replace<|arg|>view<|arg|>a.py<|end|>"),
        ("tool", "x = 1 < 2"),
        ("assistant", f"</details>{EVIL}<|end|>"),
    ]
    turns = tuple(Turn(role, i, i + 1, text) for i, (role, text) in enumerate(texts))
    made = make_episode([0] * 6, [False] * 6, skill="review", outcome=Outcome(1.0, {"<b>judgment": 1.0}))
    return replace(made, turns=turns, episode_id=EVIL)


class Page(HTMLParser):
    """Tags in order, and the text of each <pre>."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.open, self.pres = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [v for k, v in attributes if k in ("src", "href", "xlink:href")]
        if tag != "meta":
            self.open.append(tag)
        if tag == "pre":
            self.pres.append("")

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "pre":
            self.pres[-1] += data


def write_run(workdir, *, steps=3):
    metrics = Metrics(workdir)
    for step in range(steps):
        metrics.write(step, {"review/score": step / 4, "editing/score": 1.0, "review/zero_variance": 0.0})
    metrics.close()
    before = [TaskScore(f"t{i}", "review", "heldout_repositories", f"i{i}", 0.25, 3, 0) for i in range(2)]
    after = [replace(s, score=0.75, ungradable=1) for s in before]
    (workdir / "summary.json").write_text(json.dumps(summarise(before, after)))


def test_page_is_self_contained_and_shows_all(tmp_path):
    write_run(tmp_path)
    text = write_report(tmp_path, "run <1>", {"steps": 3, "policy": "hf:<x>"}, [episode()] * 2).read_text()
    page = Page(text)
    assert page.open == []
    assert page.links == []
    assert not {"script", "img", "link", "iframe", "b"} & set(page.tags)
    assert not re.search(r"http|url\(|@import", text.replace(html.escape(EVIL), ""))
    assert page.pres == [turn.text for turn in episode().turns] * 2
    assert "<title>run &lt;1&gt;</title>" in text
    assert "hf:&lt;x&gt;" in text
    cells = re.findall(r"<td>(.*?)</td>", text)
    i = cells.index("review")
    assert cells[i + 1 : i + 7] == ["0.250", "0.750", "+0.500", "0.000", "2", "2"]


def test_every_episode_without_a_reward_is_counted(tmp_path):
    metrics = Metrics(tmp_path)
    metrics.write(
        0, {"episodes": 20, "ungradable/infra": 3, "ungradable/task": 1, "ungradable/grader": 0, "replays": 5}
    )
    metrics.write(
        1, {"episodes": 25, "ungradable/infra": 0, "ungradable/task": 1, "ungradable/grader": 2, "replays": 2}
    )
    metrics.close()
    text = write_report(tmp_path, "run", {}, []).read_text()
    assert "7 of 45 (infra 3, task 2, grader 2); played again: 7" in text


def test_outcomes_without_isolation_are_told_only_where_there_are_any(tmp_path):
    """Two of a step's twenty, and one of an evaluation's three."""
    assert unsafe_outcomes(tmp_path) == {}
    unsafe = replace(episode(), outcome=Outcome(0.0, unsafe=True))
    metrics = Metrics(tmp_path)
    metrics.write(0, {"episodes": 20, "unsafe": 0})
    write_episodes(tmp_path / "episodes" / "eval-before.jsonl", [episode()] * 3)
    # Training is counted by its metrics.
    write_episodes(tmp_path / "episodes" / "train-000001.jsonl", [unsafe] * 2)
    assert "isolation" not in write_report(tmp_path, "run", {}, [episode()]).read_text()
    metrics.write(1, {"episodes": 20, "unsafe": 2})
    metrics.close()
    write_episodes(tmp_path / "episodes" / "eval-after.jsonl", [episode(), unsafe, episode()])
    assert unsafe_outcomes(tmp_path) == {"unsafe_outcomes": 3}
    text = write_report(tmp_path, "run", {}, [unsafe]).read_text()
    assert "<td>outcomes without proven isolation (--allow-unsafe)</td><td>3</td>" in text
    assert "review · reward 0 · submitted · unsafe · " in text


def test_a_run_without_anything_still_gives_a_page(tmp_path):
    text = write_report(tmp_path, "empty", {}, []).read_text()
    for note in ("Not evaluated yet.", "No step was logged.", "No episode was kept."):
        assert note in text


def test_missing_numbers_are_shown_as_missing(tmp_path):
    rows = [TaskScore("t", "review", "heldout_repositories", "i", None, 0, 3)]
    (tmp_path / "summary.json").write_text(json.dumps(summarise(rows, rows)))
    cells = re.findall(r"<td>(.*?)</td>", write_report(tmp_path, "x", {}, []).read_text())
    assert cells == ["review", "-", "-", "-", "-", "0", "6"]


def test_curves_are_trailing_means():
    """Scores 0, 1, 1 with a window of 2 are drawn at 0, 1/2 and 1 of the 260 pixels above the base line at 270."""
    rows = [{"step": s, "review/score": v} for s, v in ((0, 0.0), (5, 1.0), (10, 1.0))]
    svg = curves(rows, "score", ["review", "editing"], window=2)
    points = re.findall(r'<polyline points="(.*?)"', svg)
    assert points == ["40.0,270.0 485.0,140.0 930.0,10.0", ""]


def test_an_ungradable_episode_says_why():
    lost = replace(episode(), outcome=Outcome(None, reason="infra"))
    assert "ungradable: infra" in episode_html(lost)
