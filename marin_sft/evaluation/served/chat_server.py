"""An OpenAI-like chat server around transformers or llama.cpp, which answers greedily and with token ids.

    python chat_server.py transformers|llama.cpp MODEL NAME --host HOST --port PORT --dtype float32

A program of its own for the engine's environment: the standard library and the engine alone. Template, tokenizer, end
tokens and generation are the engine's. The paths and fields are those of vLLM's server.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Json = dict[str, Any]
F32 = 0  # a type of ggml


class Transformers:
    """A Hugging Face directory in transformers."""

    def __init__(self, path: str, dtype: str, max_model_len: int | None) -> None:
        import transformers

        self.version = transformers.__version__
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        # Eager: the fused attention of transformers 4 leaves out Gemma 2's soft caps.
        model = transformers.AutoModelForCausalLM.from_pretrained(
            path, dtype=dtype, attn_implementation="eager", trust_remote_code=False
        )
        self.model = model.eval()
        self.max_model_len = max_model_len or self.model.config.max_position_embeddings
        template = self.tokenizer.chat_template
        self.chat_template = template.get("default") if isinstance(template, dict) else template

    def prompt(self, messages: list[Json], tools: list[Json] | None, kwargs: Json) -> tuple[str, list[int]]:
        text = self.tokenizer.apply_chat_template(
            messages, tools=tools, tokenize=False, add_generation_prompt=True, **kwargs
        )
        return text, self.tokenize(text)

    def tokenize(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def generate(self, prompt: list[int], max_tokens: int) -> tuple[list[int], list[float], str]:
        import torch

        ids = torch.tensor([prompt])
        # Greedy: of generation_config.json, only the ids that end an answer count.
        plain = {"do_sample": False, "temperature": 1.0, "top_p": 1.0, "top_k": 50, "repetition_penalty": 1.0}
        with torch.no_grad():
            made = self.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=max_tokens,
                max_length=None,
                return_dict_in_generate=True,
                output_logits=True,
                **plain,
            )
        answer = made.sequences[0, len(prompt) :].tolist()
        scores = [torch.log_softmax(step[0].float(), -1) for step in made.logits]
        ends = self.model.generation_config.eos_token_id
        ends = ends if isinstance(ends, list) else [ends]
        logprobs = [float(score[token]) for score, token in zip(scores, answer, strict=True)]
        return answer, logprobs, "stop" if answer and answer[-1] in ends else "length"

    def decode(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))


class LlamaCpp:
    """A GGUF file in llama.cpp, by llama-cpp-python."""

    def __init__(self, path: str, dtype: str, max_model_len: int | None) -> None:
        import llama_cpp
        from llama_cpp.llama_chat_format import Jinja2ChatFormatter

        self.version = llama_cpp.__version__
        # Unless asked for, keys and values are rounded to 16 bits, which changes answers.
        exact = {} if dtype == "auto" else {"type_k": F32, "type_v": F32}
        self.llama = llama_cpp.Llama(path, n_ctx=max_model_len or 0, logits_all=True, verbose=True, **exact)
        self.max_model_len = self.llama.n_ctx() if max_model_len else self._trained_length()
        self.chat_template = self.llama.metadata.get("tokenizer.chat_template")
        vocabulary = self.llama._model
        self.is_end = lambda token: bool(llama_cpp.llama_vocab_is_eog(vocabulary.vocab, token))
        bos, eos = (
            vocabulary.token_get_text(token) if token >= 0 else ""
            for token in (self.llama.token_bos(), self.llama.token_eos())
        )
        self.bos = bos
        self.adds_bos = self.llama.metadata.get("tokenizer.ggml.add_bos_token") == "true"
        if self.chat_template is not None:
            self.formatter = Jinja2ChatFormatter(self.chat_template, eos, bos)

    def _trained_length(self) -> int:
        """That of the file; what is computed with is rounded up."""
        return int(self.llama.metadata[f"{self.llama.metadata['general.architecture']}.context_length"])

    def prompt(self, messages: list[Json], tools: list[Json] | None, kwargs: Json) -> tuple[str, list[int]]:
        text = self.formatter(messages=messages, tools=tools, **kwargs).prompt
        if not self.adds_bos:
            return text, self.tokenize(text)
        # As llama.cpp's server does: the BOS of the template is not doubled.
        rest = text.removeprefix(self.bos) if self.bos else text
        return text, list(self.llama.tokenize(rest.encode(), add_bos=True, special=True))

    def tokenize(self, text: str) -> list[int]:
        return list(self.llama.tokenize(text.encode(), add_bos=False, special=True))

    def generate(self, prompt: list[int], max_tokens: int) -> tuple[list[int], list[float], str]:
        import numpy as np

        answer: list[int] = []
        logprobs: list[float] = []
        for token in self.llama.generate(prompt, temp=0.0, repeat_penalty=1.0, top_k=1, reset=True):
            scores = self.llama.scores[self.llama.n_tokens - 1].astype(np.float64)
            answer.append(token)
            logprobs.append(float(scores[token] - scores.max() - np.log(np.exp(scores - scores.max()).sum())))
            if self.is_end(token) or len(answer) == max_tokens:
                break
        return answer, logprobs, "stop" if answer and self.is_end(answer[-1]) else "length"

    def decode(self, ids: list[int]) -> str:
        return self.llama.detokenize(ids).decode(errors="replace")


ENGINES: dict[str, type[Transformers | LlamaCpp]] = {"transformers": Transformers, "llama.cpp": LlamaCpp}


class Handler(BaseHTTPRequestHandler):
    engine: Transformers | LlamaCpp
    name: str
    lock = threading.Lock()

    def do_GET(self) -> None:
        if self.path == "/v1/models":
            self._say({"data": [{"id": self.name, "max_model_len": self.engine.max_model_len}]})
        elif self.path == "/tokenizer_info":
            self._say({"chat_template": self.engine.chat_template})
        elif self.path == "/version":
            self._say({"version": self.engine.version})
        else:
            self._say({"error": {"message": f"no {self.path}"}}, 404)

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        try:
            with self.lock:
                self._say({"/tokenize": self._tokenize, "/v1/chat/completions": self._complete}[self.path](asked))
        except Exception as error:  # a template is a program, and may raise anything
            import traceback

            traceback.print_exc()
            self._say({"error": {"message": f"{type(error).__name__}: {error}"}}, 400)

    def _tokenize(self, asked: Json) -> Json:
        return {"tokens": self.engine.tokenize(asked["prompt"])}

    def _complete(self, asked: Json) -> Json:
        kwargs = asked.get("chat_template_kwargs") or {}
        text, ids = self.engine.prompt(asked["messages"], asked.get("tools"), kwargs)
        room = self.engine.max_model_len - len(ids)
        if room < 1:
            raise ValueError(f"the prompt has {len(ids)} tokens, and the model takes {self.engine.max_model_len}")
        answer, logprobs, finish = self.engine.generate(ids, min(asked["max_tokens"], room))
        said = {"role": "assistant", "content": self.engine.decode(answer)}
        scores = {"content": [{"token": f"token_id:{i}", "logprob": p} for i, p in zip(answer, logprobs, strict=True)]}
        choice = {"index": 0, "message": said, "finish_reason": finish, "token_ids": answer, "logprobs": scores}
        return {"choices": [choice], "prompt_token_ids": ids, "prompt_text": text}

    def _say(self, value: Json, status: int = 200) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("engine", choices=ENGINES)
    parser.add_argument("model")
    parser.add_argument("name")
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--dtype", required=True)
    parser.add_argument("--max-model-len", type=int)
    arguments = parser.parse_args()
    Handler.engine = ENGINES[arguments.engine](arguments.model, arguments.dtype, arguments.max_model_len)
    Handler.name = arguments.name
    print(f"{arguments.engine} {Handler.engine.version} serves {arguments.model}", file=sys.stderr, flush=True)
    ThreadingHTTPServer((arguments.host, arguments.port), Handler).serve_forever()


if __name__ == "__main__":
    main()
