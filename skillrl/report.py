"""One self-contained page about a run: reward curves per skill, the before/after table, episodes to browse."""

import html
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from skillrl.evaluate import change_of, mean_row, show_score, suites_of
from skillrl.metrics import read_metrics
from skillrl.rollout.records import read_episodes
from skillrl.types import COMPOSITE_KINDS, SKILLS, UNGRADABLE_REASONS, Episode

COLOURS = ("#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed")
STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:1000px;margin:2rem auto;padding:0 1rem;color:#1f2937}
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.3rem .8rem;border-bottom:1px solid #e5e7eb;text-align:right}
td:first-child,th:first-child{text-align:left}details{border:1px solid #e5e7eb;border-radius:6px;margin:.4rem 0}
summary{padding:.4rem .8rem;cursor:pointer}pre{white-space:pre-wrap;margin:0;padding:.5rem .8rem;font-size:13px}
.user{background:#f3f4f6}.assistant{background:#eff6ff}.tool{background:#fefce8}.note{color:#6b7280}
.role{font:600 11px system-ui;text-transform:uppercase;color:#6b7280;padding:.4rem .8rem 0}
"""


def curves(rows: Sequence[Mapping], metric: str, skills: Sequence[str], *, window: int = 5) -> str:
    """An SVG of `SKILL/metric` over steps, each smoothed by a trailing mean of `window` steps."""
    width, height, left, bottom = 940, 300, 40, 30
    steps = [row["step"] for row in rows]
    if not steps:
        return '<p class="note">No step was logged.</p>'
    span = max(max(steps) - min(steps), 1)

    def point(step: float, value: float) -> str:
        x = left + (step - min(steps)) / span * (width - left - 10)
        return f"{x:.1f},{(height - bottom) - value * (height - bottom - 10):.1f}"

    lines = []
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = point(min(steps), tick).split(",")[1]
        lines.append(f'<line x1="{left}" x2="{width}" y1="{y}" y2="{y}" stroke="#e5e7eb"/>')
        lines.append(f'<text x="4" y="{float(y) + 4}" font-size="11" fill="#6b7280">{tick:.2f}</text>')
    legend = []
    for skill, colour in zip(skills, COLOURS, strict=False):
        seen = [(row["step"], row[f"{skill}/{metric}"]) for row in rows if f"{skill}/{metric}" in row]
        smooth = [
            (step, sum(v for _, v in seen[max(0, i - window + 1) : i + 1]) / min(i + 1, window))
            for i, (step, _) in enumerate(seen)
        ]
        path = " ".join(point(step, value) for step, value in smooth)
        lines.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        legend.append(f'<span style="color:{colour}">&#9632;</span> {html.escape(skill)}')
    axis = f'<text x="{width - 60}" y="{height - 6}" font-size="11" fill="#6b7280">step {max(steps)}</text>'
    body = "".join(lines) + axis
    return f'<svg viewBox="0 0 {width} {height}" role="img">{body}</svg><p>{" &nbsp; ".join(legend)}</p>'


def ungradable(rows: Sequence[Mapping]) -> str:
    """How many episodes of training could not be graded, by whose fault, and how often one was played again."""
    counts = {reason: int(sum(row.get(f"ungradable/{reason}", 0) for row in rows)) for reason in UNGRADABLE_REASONS}
    episodes, replays = (int(sum(row.get(name, 0) for row in rows)) for name in ("episodes", "replays"))
    by_reason = ", ".join(f"{reason} {count}" for reason, count in counts.items())
    return f"{sum(counts.values())} of {episodes} ({by_reason}); played again: {replays}"


def unsafe_outcomes(workdir: Path) -> dict[str, int]:
    """How many outcomes of the run's training and evaluations came from a service without proven isolation.

    As an entry of summary.json, and as none where there is no such outcome.
    """
    evaluations = sorted((workdir / "episodes").glob("eval-*.jsonl"))
    count = sum(int(row.get("unsafe", 0)) for row in read_metrics(workdir))
    count += sum(episode.outcome.unsafe for path in evaluations for episode in read_episodes(path))
    return {"unsafe_outcomes": count} if count else {}


def _row(cell: str, name: str, s: Mapping) -> str:
    values = [show_score(s["before"]), show_score(s["after"]), show_score(change_of(s), "+.3f")]
    values += [show_score(s["stderr"]), s["n"], s["ungradable"]]
    return "<tr>" + "".join(f"<{cell}>{html.escape(str(v))}</{cell}>" for v in (name, *values)) + "</tr>"


def score_table(part: Mapping) -> str:
    """The before/after table of one suite, as in summary.json."""
    head = "<tr><th>Avg@k, 0 to 1</th><th>before</th><th>after</th><th>change</th><th>s.e. of change</th>"
    head += "<th>tasks</th><th>ungradable</th></tr>"
    skills, composite = (
        "".join(_row("td", name, s) for name, s in part[kind].items()) for kind in ("skills", "composite")
    )
    return f"<table>{head}{skills}{_row('th', 'mean of the skills', mean_row(part))}{composite}</table>"


def episode_html(episode: Episode) -> str:
    reward = f"reward {episode.outcome.reward:g}" if episode.outcome.graded else f"ungradable: {episode.outcome.reason}"
    parts = [
        f'<div class="role">{t.role}</div><pre class="{t.role}">{html.escape(t.text)}</pre>' for t in episode.turns
    ]
    components = ", ".join(f"{name} {value:g}" for name, value in sorted(episode.outcome.components.items()))
    marks = [episode.task.skill, reward, episode.status.value, *["unsafe"] * episode.outcome.unsafe]
    title = " · ".join((*marks, episode.episode_id))
    note = f'<p class="note" style="padding:0 .8rem">{html.escape(components)}</p>'
    return f"<details><summary>{html.escape(title)}</summary>{''.join(parts)}{note}</details>"


def write_report(workdir: Path, title: str, facts: Mapping[str, object], episodes: Iterable[Episode]) -> Path:
    """Writes WORKDIR/report.html from the workdir's metrics and summary, and the given sample of episodes."""
    rows = read_metrics(workdir)
    summary_file = workdir / "summary.json"
    if rows:
        facts = {**facts, "training episodes without a reward": ungradable(rows)}
    for count in unsafe_outcomes(workdir).values():
        facts = {**facts, "outcomes without proven isolation (--allow-unsafe)": count}
    tables = '<p class="note">Not evaluated yet.</p>'
    if summary_file.exists():
        summary = json.loads(summary_file.read_text(encoding="utf-8"))
        tables = "".join(
            f"<h2>{html.escape(title)}</h2>{score_table(part)}" for title, part in suites_of(summary).items()
        )
    sample = "".join(map(episode_html, episodes)) or '<p class="note">No episode was kept.</p>'
    listed = "".join(f"<tr><td>{html.escape(k)}</td><td>{html.escape(str(v))}</td></tr>" for k, v in facts.items())
    known = [s for s in (*SKILLS, *COMPOSITE_KINDS) if any(f"{s}/score" in row for row in rows)]
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}</style><h1>{html.escape(title)}</h1><table>{listed}</table>{tables}"
        f"<h2>Score of training episodes, by step</h2>{curves(rows, 'score', known)}"
        f"<h2>Share of groups without variance</h2>{curves(rows, 'zero_variance', known)}"
        f"<h2>Episodes</h2><p class='note'>A sample; all of them are in episodes/*.jsonl.</p>{sample}</html>"
    )
    path = workdir / "report.html"
    path.write_text(page, encoding="utf-8")
    return path
