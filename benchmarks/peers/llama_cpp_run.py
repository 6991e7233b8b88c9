"""What llama.cpp makes of GGUF files, for benchmarks/gguf_parity.py, in the environment of `make peers-llamacpp`.

The first argument is a JSON file of jobs: {"file", "texts", "chats", "prompts", "new_tokens"}. Prints a line for each:
ids of the texts, ids of the chats by the file's own template, and for each prompt of ids its logits and greedy answer.
"""

import json
import sys

import llama_cpp
import numpy as np
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

F32 = 0  # the cache, whose default of f16 would round what is compared


def main() -> None:
    with open(sys.argv[1], encoding="utf-8") as file:
        jobs = json.load(file)
    for job in jobs:
        print(json.dumps(outcome(job)), flush=True)


def outcome(job: dict) -> dict:
    options = {"n_ctx": job["context"], "logits_all": True, "type_k": F32, "type_v": F32, "n_threads": 1}
    try:
        model = llama_cpp.Llama(job["file"], verbose=False, **options)
    except Exception as error:
        return {"error": repr(error)}
    texts = [model.tokenize(text.encode(), add_bos=False, special=True) for text in job["texts"]]
    chats = [chat_ids(model, chat) for chat in job["chats"]] if "tokenizer.chat_template" in model.metadata else None
    answers, logits = [], []
    for prompt in job["prompts"]:
        model.reset()
        model.eval(prompt)
        logits.append(model.scores[len(prompt) - 1].tolist())
        answer = []
        for _ in range(job["new_tokens"]):
            answer.append(int(np.argmax(model.scores[model.n_tokens - 1])))
            model.eval(answer[-1:])
        answers.append(answer)
    ends = [i for i in range(model.n_vocab()) if llama_cpp.llama_vocab_is_eog(model._model.vocab, i)]
    return {"texts": texts, "chats": chats, "answers": answers, "logits": logits, "ends": ends}


def chat_ids(model: llama_cpp.Llama, chat: list) -> list:
    vocab = model._model
    text = {
        name: vocab.token_get_text(i) if i >= 0 else ""
        for name, i in (("eos_token", model.token_eos()), ("bos_token", model.token_bos()))
    }
    formatter = Jinja2ChatFormatter(template=model.metadata["tokenizer.chat_template"], **text)
    made = formatter(messages=chat)
    prompt = made.prompt
    # As llama.cpp's server does: the BOS of the template is not doubled.
    adds = model.metadata.get("tokenizer.ggml.add_bos_token") == "true"
    if adds and text["bos_token"]:
        prompt = prompt.removeprefix(text["bos_token"])
    return model.tokenize(prompt.encode(), add_bos=adds, special=True)


if __name__ == "__main__":
    main()
