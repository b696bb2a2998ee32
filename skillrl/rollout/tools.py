"""The agent's two tools: a call of the policy becomes a call of the service, its reply becomes an observation.

bash          (command)                          runs it in the workspace
str_replace   ("view", path)                     shows a file or lists a folder
              ("create", path, text)             writes a file
              ("replace", path, old, new)        replaces `old`, which must occur exactly once

What the agent did wrong is told to the agent; only the service's own faults raise.
"""

from dataclasses import dataclass

from sandbox_service import sandbox_pb2 as pb
from skillrl.chat import ToolCall
from skillrl.rollout.sandbox import Session
from skillrl.tokenizer import Tokenizer

USAGE = (
    "use bash(command), str_replace(view, path), str_replace(create, path, text) or "
    "str_replace(replace, path, old, new)"
)
MIN_OBSERVATION_TOKENS = 32
# Commands of str_replace and how many arguments follow each.
_ARGUMENTS = {"view": 1, "create": 2, "replace": 3}
_ENDINGS = {
    pb.OUT_OF_MEMORY: "[out of memory]",
    pb.OUT_OF_PROCESSES: "[too many processes]",
    pb.OUT_OF_DISK: "[no space left]",
    pb.OUTPUT_LIMIT: "[stopped: too much output]",
}


@dataclass(frozen=True)
class Observation:
    text: str
    # False when the call was out of form, so that nothing was run.
    valid: bool = True
    # How long the command itself ran, in seconds.
    ran_s: float = 0.0


async def run_tool(session: Session, call: ToolCall, *, exec_timeout_s: float) -> Observation:
    """Carries out one call. Raises only what the session raises."""
    fault = fault_of(call)
    if fault:
        return Observation(f"[error: {fault}; {USAGE}]", valid=False)
    if call.name == "bash":
        reply = await session.exec(call.args[0], exec_timeout_s)
        return Observation(exec_observation(reply), ran_s=reply.wall_s)
    command, path, *texts = call.args
    old, new = ["", "", *texts][-2:]
    reply = await session.str_replace(command, path, new_text=new, old_text=old)
    return Observation(reply.output if reply.ok else f"[error] {reply.output}")


def fault_of(call: ToolCall) -> str:
    """What is wrong with the form of a call; empty when nothing is."""
    if any("\0" in arg for arg in call.args):
        return "an argument holds a NUL byte"
    if call.name == "bash":
        return "" if len(call.args) == 1 else f"bash takes 1 argument, not {len(call.args)}"
    if call.name != "str_replace":
        return f"unknown tool {call.name[:40]!r}"
    if not call.args or call.args[0] not in _ARGUMENTS:
        return f"unknown command {call.args[0][:40]!r}" if call.args else "str_replace needs a command"
    expected, given = _ARGUMENTS[call.args[0]], len(call.args) - 1
    return "" if given == expected else f"str_replace {call.args[0]} takes {expected} more arguments, not {given}"


def exec_observation(reply: pb.ExecReply) -> str:
    """The output; below it how the command ended, unless it simply succeeded."""
    notes = [f"[{reply.omitted_bytes} bytes omitted]"] if reply.omitted_bytes else []
    if reply.outcome == pb.TIMEOUT:
        notes.append(f"[timeout after {reply.wall_s:.0f} s]")
    elif reply.outcome == pb.SIGNALED:
        notes.append(f"[killed by signal {reply.exit_code}]")
    elif reply.outcome in _ENDINGS:
        notes.append(_ENDINGS[reply.outcome])
    elif reply.exit_code:
        notes.append(f"[exit {reply.exit_code}]")
    if not reply.output and not notes:
        return "[no output]"
    separator = "\n" if reply.output and notes and not reply.output.endswith("\n") else ""
    return reply.output + separator + "\n".join(notes)


def shorten(text: str, tokenizer: Tokenizer, max_tokens: int) -> str:
    """`text` in at most `max_tokens` tokens: its head, how much is left out, its tail. ValueError for too few."""
    if max_tokens < MIN_OBSERVATION_TOKENS:
        raise ValueError(
            f"an observation of {max_tokens} tokens says nothing; set max_observation_tokens to "
            f"{MIN_OBSERVATION_TOKENS} or more"
        )
    ids = tokenizer.encode(text)
    if len(ids) <= max_tokens:
        return text
    # Text around a cut may take more tokens than before: keep less until it fits.
    for half in range(max_tokens // 2 - 4, -1, -max(1, max_tokens // 64)):
        note = f"\n[{len(ids) - 2 * half} tokens left out]\n"
        short = tokenizer.decode(ids[:half]) + note + tokenizer.decode(ids[len(ids) - half :])
        if len(tokenizer.encode(short)) <= max_tokens:
            return short
    return f"[{len(ids)} tokens]"
