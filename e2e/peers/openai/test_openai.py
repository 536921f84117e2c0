"""OpenAI's own Python client, unchanged, against two running tinyinfer servers.

    pip install -r requirements.txt
    python test_openai.py --chat http://127.0.0.1:8000 --embed http://127.0.0.1:8010

One server serves smollm2-135m-instruct, the other all-minilm-l6-v2. Exits 1 when a behaviour is not as expected.
"""

import argparse
import concurrent.futures
import ssl
import sys
import time
import traceback

import httpx
import openai

parser = argparse.ArgumentParser()
parser.add_argument("--chat", default="http://127.0.0.1:8000")
parser.add_argument("--embed", default="http://127.0.0.1:8010")
parser.add_argument("--only", default="")
arguments = parser.parse_args()

chat = openai.OpenAI(base_url=arguments.chat + "/v1", api_key="none", max_retries=0, timeout=600)
embed = openai.OpenAI(base_url=arguments.embed + "/v1", api_key="none", max_retries=0, timeout=600)
http = httpx.Client(base_url=arguments.chat, timeout=600)
MODEL = chat.models.list().data[0].id
EMBEDDER = embed.models.list().data[0].id
USER = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]

TESTS = []


def test(function):
    TESTS.append(function)
    return function


def fails(kind, call):
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"expected {kind.__name__}")


def gauge(name):
    for line in http.get("/metrics").text.splitlines():
        if line.startswith(name + "{") or line.startswith(name + " "):
            return float(line.rsplit(" ", 1)[1])
    raise AssertionError(f"no metric {name}")


def until(condition, seconds=300):
    end = time.time() + seconds
    while time.time() < end:
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("never came true")


@test
def models_are_listed_and_found():
    listed = chat.models.list().data
    assert listed[0].object == "model" and listed[0].owned_by
    assert chat.models.retrieve(MODEL).id == MODEL


@test
def a_missing_model_names_the_closest():
    error = fails(openai.NotFoundError, lambda: chat.models.retrieve("smolm2"))
    assert error.code == "model_not_found" and MODEL in error.message
    error = fails(openai.NotFoundError, lambda: chat.chat.completions.create(model="gpt-4o", messages=USER))
    assert error.param == "model" and MODEL in error.message


@test
def a_chat_completion_answers():
    reply = chat.chat.completions.create(model=MODEL, messages=USER, temperature=0, max_tokens=40)
    choice = reply.choices[0]
    assert "Paris" in choice.message.content, choice.message.content
    assert choice.message.role == "assistant" and choice.finish_reason in ("stop", "length")
    usage = reply.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert 0 < usage.completion_tokens <= 40
    timings = reply.model_extra["timings"]
    assert timings["prefill_ms"] >= 0 and timings["decode_ms"] >= 0 and timings["queue_ms"] >= 0


@test
def a_stream_gives_the_same_text_as_a_whole_reply():
    arguments = dict(model=MODEL, messages=USER, temperature=0, max_tokens=40)
    whole = chat.chat.completions.create(**arguments)
    chunks = list(chat.chat.completions.create(stream=True, **arguments))
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == whole.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    assert len({chunk.id for chunk in chunks}) == 1


@test
def a_stream_can_end_with_usage():
    stream = chat.chat.completions.create(
        model=MODEL, messages=USER, max_tokens=5, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert all(chunk.usage is None for chunk in chunks[:-1])
    last = chunks[-1]
    assert last.choices == [] and last.usage.completion_tokens <= 5 and last.usage.prompt_tokens > 10
    assert "prefill_ms" in last.model_extra["timings"]


@test
def the_stream_helper_of_the_client_works():
    with chat.chat.completions.stream(model=MODEL, messages=USER, max_tokens=8, temperature=0) as stream:
        for _ in stream:
            pass
        final = stream.get_final_completion()
    assert final.choices[0].message.content


@test
def the_same_seed_gives_the_same_reply():
    def reply(seed):
        completion = chat.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "Invent a name for a cat."}], seed=seed, max_tokens=20
        )
        return completion.choices[0].message.content

    assert reply(7) == reply(7)
    assert len({reply(seed) for seed in range(4)}) > 1


@test
def a_reply_is_the_same_alone_and_in_a_batch_of_sixteen():
    def reply(seed):
        # A client of its own: in a shared one, a thread may close the connection that another has just taken.
        with openai.OpenAI(base_url=arguments.chat + "/v1", api_key="none", max_retries=0, timeout=600) as own:
            completion = own.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": f"Tell me about the number {seed}."}], seed=seed, max_tokens=24
            )
        return completion.choices[0].message.content

    alone = [reply(seed) for seed in range(16)]
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        together = list(pool.map(reply, range(16)))
    assert alone == together


@test
def several_choices_differ():
    reply = chat.chat.completions.create(model=MODEL, messages=USER, n=3, seed=1, temperature=1.5, max_tokens=12)
    assert [choice.index for choice in reply.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in reply.choices}) > 1
    stream = chat.chat.completions.create(
        model=MODEL, messages=USER, n=3, seed=1, temperature=1.5, max_tokens=12, stream=True
    )
    texts = ["", "", ""]
    for chunk in stream:
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts == [choice.message.content for choice in reply.choices]


@test
def stop_strings_end_the_reply():
    reply = chat.chat.completions.create(model=MODEL, messages=USER, temperature=0, max_tokens=40, stop=["Par", "zzz"])
    assert "Par" not in reply.choices[0].message.content
    assert reply.choices[0].finish_reason == "stop" and reply.choices[0].model_extra["stop_reason"] == "Par"
    stream = chat.chat.completions.create(
        model=MODEL, messages=USER, temperature=0, max_tokens=40, stop="Par", stream=True
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == reply.choices[0].message.content


@test
def max_tokens_is_a_length():
    for name in ("max_tokens", "max_completion_tokens"):
        reply = chat.chat.completions.create(model=MODEL, messages=USER, temperature=0, **{name: 3})
        assert reply.choices[0].finish_reason == "length" and reply.usage.completion_tokens == 3


@test
def chat_logprobs_are_probabilities():
    reply = chat.chat.completions.create(
        model=MODEL, messages=USER, temperature=0, max_tokens=5, logprobs=True, top_logprobs=3
    )
    content = reply.choices[0].logprobs.content
    assert len(content) == reply.usage.completion_tokens
    for token in content:
        assert token.logprob <= 0 and len(token.top_logprobs) == 3
        assert token.top_logprobs[0].token == token.token, "greedy picks the likeliest"
        assert bytes(token.bytes).decode() == token.token
    assert "".join(token.token for token in content) == reply.choices[0].message.content


@test
def chat_logprobs_stream():
    stream = chat.chat.completions.create(
        model=MODEL, messages=USER, temperature=0, max_tokens=5, logprobs=True, top_logprobs=2, stream=True
    )
    tokens = [t for c in stream if c.choices[0].logprobs for t in c.choices[0].logprobs.content]
    assert len(tokens) == 5 and all(len(t.top_logprobs) == 2 for t in tokens)


@test
def logit_bias_bans_and_forces():
    token = http.post("/tokenize", json={"prompt": " banana", "add_special_tokens": False}).json()["tokens"]
    assert len(token) == 1, token
    reply = chat.chat.completions.create(model=MODEL, messages=USER, max_tokens=3, logit_bias={str(token[0]): 100})
    assert reply.choices[0].message.content == " banana banana banana"


@test
def completions_continue_text_and_tokens():
    prompt = "The capital of France is"
    by_text = chat.completions.create(model=MODEL, prompt=prompt, temperature=0, max_tokens=6)
    tokens = http.post("/tokenize", json={"prompt": prompt}).json()["tokens"]
    by_tokens = chat.completions.create(model=MODEL, prompt=tokens, temperature=0, max_tokens=6)
    assert by_text.choices[0].text == by_tokens.choices[0].text and by_text.choices[0].text
    several = chat.completions.create(model=MODEL, prompt=[prompt, "One, two, three,"], temperature=0, max_tokens=6, n=2)
    assert [choice.index for choice in several.choices] == [0, 1, 2, 3]
    assert several.choices[0].text == by_text.choices[0].text
    assert chat.completions.create(model=MODEL, prompt="x").usage.completion_tokens <= 16


@test
def echo_scores_the_prompt():
    prompt = "The quick brown fox — naïve"
    reply = chat.completions.create(model=MODEL, prompt=prompt, max_tokens=0, echo=True, logprobs=1)
    choice = reply.choices[0]
    assert choice.text == prompt and reply.usage.completion_tokens == 0
    scores = choice.logprobs
    assert scores.token_logprobs[0] is None and all(s <= 0 for s in scores.token_logprobs[1:])
    assert len(scores.tokens) == reply.usage.prompt_tokens == len(scores.text_offset)
    assert scores.text_offset[0] == 0 and scores.text_offset == sorted(scores.text_offset)
    both = chat.completions.create(model=MODEL, prompt=prompt, max_tokens=3, echo=True, logprobs=1, temperature=0)
    assert both.choices[0].text.startswith(prompt)
    assert both.choices[0].logprobs.token_logprobs[: len(scores.tokens)] == scores.token_logprobs
    assert both.choices[0].logprobs.text_offset[len(scores.tokens)] == len(prompt)


@test
def completions_stream():
    arguments = dict(model=MODEL, prompt="Once upon a time", temperature=0, max_tokens=12, logprobs=2)
    whole = chat.completions.create(**arguments)
    chunks = list(chat.completions.create(stream=True, **arguments))
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    offsets = [o for c in chunks if c.choices[0].logprobs for o in c.choices[0].logprobs.text_offset]
    assert offsets == whole.choices[0].logprobs.text_offset


@test
def streams_hold_whole_characters_only():
    prompt = "Repeat exactly: 👩‍🚀 日本語 naïve 🎉🎉🎉"
    for seed in range(3):
        stream = chat.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": prompt}], seed=seed, temperature=1.8, max_tokens=60, stream=True
        )
        for chunk in stream:
            (chunk.choices[0].delta.content or "").encode()  # a lone surrogate would raise


@test
def wrong_values_are_refused_by_name():
    table = [
        ({"temperature": 3}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": -0.1}, "top_p"),
        ({"n": 0}, "n"),
        ({"n": 100000}, "n"),
        ({"max_tokens": -5}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"presence_penalty": 9}, "presence_penalty"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"stop": [1]}, "stop[0]"),
        ({"stop": ""}, "stop"),
        ({"seed": "x"}, "seed"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "messages[0].content[0].type"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
    ]
    for change, param in table:
        error = fails(
            openai.BadRequestError,
            lambda: chat.chat.completions.create(**{"model": MODEL, "messages": USER, "extra_body": {}, **change}),
        )
        assert error.param == param, (change, error.body)
        assert error.type == "invalid_request_error"


@test
def unknown_fields_are_tolerated():
    reply = chat.chat.completions.create(
        model=MODEL, messages=USER, max_tokens=2, user="me", extra_body={"brand_new_option": {"a": 1}, "tools": []}
    )
    assert reply.choices[0].message.content


@test
def too_long_prompts_name_the_numbers():
    limit = chat.models.retrieve(MODEL).model_extra["max_model_len"]
    error = fails(
        openai.BadRequestError,
        lambda: chat.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "word " * (limit + 10)}]),
    )
    assert error.code == "context_length_exceeded" and str(limit) in error.message
    error = fails(
        openai.BadRequestError, lambda: chat.chat.completions.create(model=MODEL, messages=USER, max_tokens=limit)
    )
    assert error.code == "context_length_exceeded" and "in the completion" in error.message


@test
def garbage_is_refused_in_openais_form():
    for body in (b"{", b"[]", b"\xff\xfe", b'"x"', b"", b'{"messages": [[[[' + b"[" * 5000):
        reply = http.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})
        assert reply.status_code == 400 and reply.json()["error"]["type"] == "invalid_request_error", reply.text
    missing = http.get("/v1/nothing")
    assert missing.status_code == 404 and "Invalid URL (GET /v1/nothing)" in missing.json()["error"]["message"]
    wrong = http.get("/v1/chat/completions")
    assert wrong.status_code == 405 and wrong.json()["error"]["code"] == "method_not_allowed"


@test
def huge_bodies_are_refused():
    body = b'{"messages": [{"role": "user", "content": "' + b"a" * 100_000_000 + b'"}]}'
    try:
        reply = http.post("/v1/chat/completions", content=body)
        assert reply.status_code == 413 and reply.json()["error"]["code"] == "request_too_large", reply.text
    except httpx.WriteError:
        pass  # the server closed while the client was still sending
    assert http.get("/health").status_code == 200


@test
def a_client_that_leaves_frees_its_blocks():
    until(lambda: gauge("vllm:num_requests_running") == 0)
    stream = chat.chat.completions.create(
        model=MODEL, messages=USER, stream=True, max_tokens=2000, extra_body={"ignore_eos": True}
    )
    for _, _chunk in zip(range(4), stream):
        pass
    assert gauge("vllm:kv_cache_usage_perc") > 0
    stream.close()
    until(lambda: gauge("vllm:num_requests_running") == 0 and gauge("vllm:kv_cache_usage_perc") == 0)


@test
def a_repeated_prompt_is_read_from_the_cache():
    long = [{"role": "user", "content": f"{time.time()} " + "Count with me. " * 40}]
    first = chat.chat.completions.create(model=MODEL, messages=long, max_tokens=1)
    second = chat.chat.completions.create(model=MODEL, messages=long, max_tokens=1)
    assert first.usage.prompt_tokens_details.cached_tokens < 32
    assert second.usage.prompt_tokens_details.cached_tokens > 100
    salted = chat.chat.completions.create(model=MODEL, messages=long, max_tokens=1, extra_body={"cache_salt": "s"})
    assert salted.usage.prompt_tokens_details.cached_tokens == 0


@test
def tokenize_and_detokenize_are_inverse():
    text = "Hello 👩‍🚀, naïve world!\n\n<|im_end|>"
    tokens = http.post("/tokenize", json={"prompt": text, "return_token_strs": True}).json()
    assert tokens["count"] == len(tokens["tokens"]) == len(tokens["token_strs"])
    assert http.post("/detokenize", json={"tokens": tokens["tokens"]}).json()["prompt"] == text
    conversation = http.post("/tokenize", json={"messages": USER}).json()
    reply = chat.chat.completions.create(model=MODEL, messages=USER, max_tokens=1)
    assert conversation["count"] == reply.usage.prompt_tokens


@test
def five_hundred_requests_at_once_are_all_answered():
    tls = ssl.create_default_context()  # Made once: it is the slow part of a client, and unused here.

    def one(at):
        body = {"messages": [{"role": "user", "content": f"{at}?"}], "max_tokens": 2}
        reply = httpx.post(f"{arguments.chat}/v1/chat/completions", json=body, timeout=600, verify=tls)
        return reply.status_code, reply.headers.get("retry-after")

    with concurrent.futures.ThreadPoolExecutor(500) as pool:
        results = list(pool.map(one, range(500)))
    assert {status for status, _ in results} <= {200, 429}
    assert all(after and int(after) >= 1 for status, after in results if status == 429)
    assert sum(status == 200 for status, _ in results) > 100
    until(lambda: gauge("vllm:kv_cache_usage_perc") == 0)


@test
def embeddings_are_unit_vectors_in_both_encodings():
    texts = ["A cat sat on the mat.", "A feline rested on a rug.", "Interest rates rose again."]
    plain = embed.embeddings.create(model=EMBEDDER, input=texts, encoding_format="float")
    packed = embed.embeddings.create(model=EMBEDDER, input=texts)  # the client asks for base64
    assert [item.index for item in plain.data] == [0, 1, 2]
    vectors = [item.embedding for item in plain.data]
    for one, other in zip(vectors, (item.embedding for item in packed.data)):
        assert max(abs(a - b) for a, b in zip(one, other)) < 1e-6
        assert abs(sum(a * a for a in one) - 1) < 1e-4 and len(one) == 384
    dot = lambda a, b: sum(x * y for x, y in zip(a, b))  # noqa: E731
    assert dot(vectors[0], vectors[1]) > dot(vectors[0], vectors[2]) + 0.2
    single = embed.embeddings.create(model=EMBEDDER, input=texts[0], encoding_format="float").data[0].embedding
    assert single == vectors[0], "alone and in a batch"
    assert plain.usage.prompt_tokens == plain.usage.total_tokens > 0


@test
def embeddings_take_tokens():
    tokens = httpx.post(arguments.embed + "/tokenize", json={"prompt": "A cat sat on the mat."}).json()["tokens"]
    by_tokens = embed.embeddings.create(model=EMBEDDER, input=[tokens], encoding_format="float").data[0].embedding
    by_text = embed.embeddings.create(model=EMBEDDER, input="A cat sat on the mat.", encoding_format="float")
    assert by_tokens == by_text.data[0].embedding


@test
def wrong_embedding_requests_are_refused():
    assert embed.embeddings.create(model=EMBEDDER, input="x", dimensions=384).data
    table = [
        ({"input": "x", "dimensions": 128}, "dimensions"),
        ({"input": []}, "input"),
        ({"input": ""}, "input"),
        ({"input": ["a", 1]}, "input[1]"),
        ({"input": "x", "encoding_format": "hex"}, "encoding_format"),
        ({"input": "word " * 3000}, "input"),
        ({"input": [[99999999]]}, "input[0]"),
    ]
    for change, param in table:
        error = fails(openai.BadRequestError, lambda: embed.embeddings.create(**{"model": EMBEDDER, **change}))
        assert error.param == param, (str(change)[:60], error.body)
    cut = embed.embeddings.create(model=EMBEDDER, input="word " * 3000, extra_body={"truncate_prompt_tokens": -1})
    assert cut.usage.prompt_tokens == embed.models.list().data[0].model_extra["max_model_len"]


@test
def rerank_orders_by_meaning():
    body = {"query": "Where do cats sleep?", "documents": ["Rates rose.", {"text": "Cats nap on sofas."}, "Dogs bark."], "top_n": 2, "return_documents": True}
    for path in ("/rerank", "/v1/rerank", "/v2/rerank"):
        reply = httpx.post(arguments.embed + path, json=body).json()
        assert [item["index"] for item in reply["results"]][0] == 1 and len(reply["results"]) == 2, reply
        assert reply["results"][0]["document"]["text"] == "Cats nap on sofas."
        assert reply["scored_by"] == "cosine of embeddings"


@test
def endpoints_that_do_not_fit_the_model_say_so():
    error = fails(openai.BadRequestError, lambda: chat.embeddings.create(model=MODEL, input="x"))
    assert "text generator" in error.message
    error = fails(openai.BadRequestError, lambda: embed.chat.completions.create(model=EMBEDDER, messages=USER))
    assert "embedding model" in error.message


@test
def probes_and_metrics_answer():
    assert http.get("/health").status_code == http.get("/ping").status_code == 200
    assert http.get("/version").json()["version"]
    text = http.get("/metrics").text
    for name in (
        "vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc",
        "vllm:prefix_cache_queries_total", "vllm:prefix_cache_hits_total", "vllm:num_preemptions_total",
        "vllm:prompt_tokens_total", "vllm:generation_tokens_total", "vllm:request_success_total",
        "vllm:time_to_first_token_seconds_bucket", "vllm:inter_token_latency_seconds_bucket",
        "vllm:e2e_request_latency_seconds_count", "vllm:request_queue_time_seconds_sum",
        "vllm:request_prefill_time_seconds_sum", "vllm:request_decode_time_seconds_sum",
    ):  # fmt: skip
        assert name in text, name
    assert f'model_name="{MODEL}"' in text


def main():
    failed = 0
    chosen = [t for t in TESTS if arguments.only in t.__name__]
    for function in chosen:
        started = time.time()
        try:
            function()
            print(f"ok    {function.__name__}  {time.time() - started:.1f} s", flush=True)
        except Exception:
            failed += 1
            print(f"FAIL  {function.__name__}", flush=True)
            traceback.print_exc()
    print(f"{len(chosen) - failed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


main()
