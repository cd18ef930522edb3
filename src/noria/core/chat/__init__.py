"""Chat models: messages of several kinds, one client for every OpenAI-compatible server, typed outcomes.

A request that fails does not raise: its outcome is an `Answer`, a `Refusal` or a `Failure` with its kind and the number
of attempts, so that one bad request of ten thousand is a row in a table. What a user must mend before any request can
be sent (an address, a key, a price) raises a `NoriaError`.
"""

from noria.core.chat.budget import Budget
from noria.core.chat.cache import ChatCache
from noria.core.chat.client import ChatClient, Stream, ask_all
from noria.core.chat.messages import (
    Audio,
    ChatModel,
    ChatRequest,
    Clip,
    Frame,
    Image,
    Message,
    Part,
    Text,
    ToolCall,
    Video,
    assistant,
    system,
    tool,
    user,
)
from noria.core.chat.outcomes import Answer, Failure, FailureKind, Outcome, Refusal, Usage
from noria.core.chat.settings import ChatServer, Prices

__all__ = [
    "Answer",
    "Audio",
    "Budget",
    "ChatCache",
    "ChatClient",
    "ChatModel",
    "ChatRequest",
    "ChatServer",
    "Clip",
    "Failure",
    "FailureKind",
    "Frame",
    "Image",
    "Message",
    "Outcome",
    "Part",
    "Prices",
    "Refusal",
    "Stream",
    "Text",
    "ToolCall",
    "Usage",
    "Video",
    "ask_all",
    "assistant",
    "system",
    "tool",
    "user",
]
