"""Messages to an append-only token stream and back.

An episode starts with `render_prompt`, the policy samples a turn up to and including a stop token, `bridge` appends a
tool's reply and opens the next turn. What was sampled is never encoded again, so the stream that the policy saw is the
stream that it learns from. The loss falls on what the policy sampled, its stop tokens included, and on nothing else.
"""

from skillrl.chat.base import ChatError, ChatFormat, Final, Malformed, Message, ToolCall, ToolResult, User, render
from skillrl.chat.calls import CALL_FORMATS
from skillrl.chat.compact import CompactChat
from skillrl.chat.template import TemplateChat

# What `policy.chat` may name.
FORMATS = ("compact", *(calls.name for calls in CALL_FORMATS))

__all__ = [
    "FORMATS",
    "ChatError",
    "ChatFormat",
    "CompactChat",
    "Final",
    "Malformed",
    "Message",
    "TemplateChat",
    "ToolCall",
    "ToolResult",
    "User",
    "render",
]
