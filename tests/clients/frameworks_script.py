"""Chats of LangChain and LlamaIndex with a router: `python frameworks_script.py URL KEY MODEL`.

Runs in an environment of its own, which has nothing of this project.
"""

from __future__ import annotations

import json
import sys
from typing import Any


def langchain(url: str, key: str, model: str) -> dict[str, Any]:
    from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
    from langchain_openai import ChatOpenAI, OpenAI

    chat = ChatOpenAI(
        base_url=url + "/v1",
        api_key=key,
        model=model,
        max_tokens=8,
        temperature=0,
        stream_usage=True,
    )
    turns = [SystemMessage("Be brief."), HumanMessage("Hello"), AIMessage("Hi"), HumanMessage("?")]
    whole = chat.invoke(turns)
    parts = list(chat.stream(turns))
    several = chat.batch([turns, turns])

    def weather(city: str) -> str:
        """Tells the weather."""
        return city

    bound = chat.bind_tools([weather], tool_choice="none").invoke(turns)
    completion = OpenAI(base_url=url + "/v1", api_key=key, model=model, max_tokens=8, temperature=0)
    return {
        "text": whole.content,
        "tokens": whole.usage_metadata["output_tokens"],
        "streamed": "".join(part.content for part in parts),
        "batch": [answer.content for answer in several],
        "bound": bound.content,
        "completion": completion.invoke("Once upon a time"),
    }


def llama_index(url: str, key: str, model: str) -> dict[str, Any]:
    from llama_index.core.llms import ChatMessage
    from llama_index.llms.openai_like import OpenAILike

    llm = OpenAILike(
        api_base=url + "/v1",
        api_key=key,
        model=model,
        max_tokens=8,
        temperature=0,
        is_chat_model=True,
    )
    turns = [
        ChatMessage(role="system", content="Be brief."),
        ChatMessage(role="user", content="Hi"),
    ]
    parts = list(llm.stream_chat(turns))
    return {
        "text": llm.chat(turns).message.content,
        "streamed": parts[-1].message.content,
        "completion": llm.complete("Once upon a time").text,
    }


def main() -> None:
    url, key, model = sys.argv[1:]
    found = {
        "langchain": langchain(url, key, model),
        "llama_index": llama_index(url, key, model),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
