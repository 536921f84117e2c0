// OpenAI's own JavaScript client, unchanged, against two running tinyinfer servers.
//
//     npm install
//     node test_openai.mjs http://127.0.0.1:8000 http://127.0.0.1:8010
//
// The first serves smollm2-135m-instruct, the second all-minilm-l6-v2. Exits 1 when a behaviour is not as expected.

import assert from "node:assert/strict";
import OpenAI from "openai";

const [chatUrl = "http://127.0.0.1:8000", embedUrl = "http://127.0.0.1:8010"] = process.argv.slice(2);
const options = { apiKey: "none", maxRetries: 0, timeout: 120_000 };
const chat = new OpenAI({ baseURL: `${chatUrl}/v1`, ...options });
const embed = new OpenAI({ baseURL: `${embedUrl}/v1`, ...options });
const model = (await chat.models.list()).data[0].id;
const embedder = (await embed.models.list()).data[0].id;
const messages = [{ role: "user", content: "What is the capital of France? Answer in one sentence." }];

const fails = async (kind, promise) => {
  const error = await promise.then(
    () => assert.fail(`expected ${kind.name}`),
    (error) => error,
  );
  assert.ok(error instanceof kind, `${error}`);
  return error;
};

const gauge = async (name) => {
  const text = await (await fetch(`${chatUrl}/metrics`)).text();
  const line = text.split("\n").find((line) => line.startsWith(`${name}{`));
  return Number(line.split(" ").pop());
};

const until = async (condition) => {
  for (let round = 0; round < 200; round += 1) {
    if (await condition()) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  assert.fail("never came true");
};

const tests = {
  async "models are listed and found"() {
    assert.equal((await chat.models.retrieve(model)).id, model);
    const error = await fails(OpenAI.NotFoundError, chat.models.retrieve("smolm2"));
    assert.match(error.message, new RegExp(model));
  },
  async "a chat completion answers"() {
    const reply = await chat.chat.completions.create({ model, messages, temperature: 0, max_tokens: 40 });
    assert.match(reply.choices[0].message.content, /Paris/);
    assert.equal(reply.usage.total_tokens, reply.usage.prompt_tokens + reply.usage.completion_tokens);
  },
  async "a stream gives the same text, with usage at its end"() {
    const body = { model, messages, temperature: 0, max_tokens: 40 };
    const whole = await chat.chat.completions.create(body);
    const stream = await chat.chat.completions.create({ ...body, stream: true, stream_options: { include_usage: true } });
    let text = "";
    let last;
    for await (const chunk of stream) {
      text += chunk.choices[0]?.delta?.content ?? "";
      last = chunk;
    }
    assert.equal(text, whole.choices[0].message.content);
    assert.equal(last.usage.completion_tokens, whole.usage.completion_tokens);
  },
  async "the stream helper works"() {
    const runner = chat.chat.completions.stream({ model, messages, temperature: 0, max_tokens: 12 });
    const final = await runner.finalChatCompletion();
    assert.ok(final.choices[0].message.content.length > 0);
  },
  async "choices, stop and seed"() {
    const body = { model, messages, n: 2, seed: 3, temperature: 1.3, max_tokens: 16, stop: ["\n"] };
    const [one, other] = [await chat.chat.completions.create(body), await chat.chat.completions.create(body)];
    assert.deepEqual(
      one.choices.map((choice) => choice.message.content),
      other.choices.map((choice) => choice.message.content),
    );
    assert.ok(one.choices.every((choice) => !choice.message.content.includes("\n")));
  },
  async "logprobs"() {
    const body = { model, messages, temperature: 0, max_tokens: 4, logprobs: true, top_logprobs: 2 };
    const { content } = (await chat.chat.completions.create(body)).choices[0].logprobs;
    assert.equal(content.length, 4);
    assert.ok(content.every((token) => token.logprob <= 0 && token.top_logprobs.length === 2));
  },
  async "legacy completions with echo"() {
    const reply = await chat.completions.create({ model, prompt: "One, two,", max_tokens: 0, echo: true, logprobs: 1 });
    assert.equal(reply.choices[0].text, "One, two,");
    assert.equal(reply.choices[0].logprobs.token_logprobs[0], null);
  },
  async "wrong values are refused by name"() {
    const table = [
      [{ temperature: 9 }, "temperature"],
      [{ max_tokens: -1 }, "max_tokens"],
      [{ n: 1e9 }, "n"],
      [{ messages: [] }, "messages"],
      [{ response_format: { type: "json_object" } }, "response_format"],
    ];
    for (const [change, param] of table) {
      const call = chat.chat.completions.create({ model, messages, ...change });
      assert.equal((await fails(OpenAI.BadRequestError, call)).param, param);
    }
  },
  async "an aborted stream frees its blocks"() {
    await until(async () => (await gauge("vllm:num_requests_running")) === 0);
    const stream = await chat.chat.completions.create({ model, messages, max_tokens: 2000, stream: true, ignore_eos: true });
    let chunks = 0;
    for await (const chunk of stream) {
      chunks += chunk.choices.length;
      if (chunks > 4) break;
    }
    await until(async () => (await gauge("vllm:kv_cache_usage_perc")) === 0);
  },
  async "embeddings, as floats and packed"() {
    const packed = await embed.embeddings.create({ model: embedder, input: ["a cat", "a dog"] });
    const plain = await embed.embeddings.create({ model: embedder, input: ["a cat", "a dog"], encoding_format: "float" });
    assert.equal(plain.data.length, 2);
    plain.data.forEach(({ embedding }, at) => {
      assert.equal(embedding.length, 384);
      embedding.forEach((value, index) => assert.ok(Math.abs(value - packed.data[at].embedding[index]) < 1e-6));
    });
    const error = await fails(OpenAI.BadRequestError, embed.embeddings.create({ model: embedder, input: "x", dimensions: 7 }));
    assert.equal(error.param, "dimensions");
  },
  async "an endpoint that does not fit the model says so"() {
    const error = await fails(OpenAI.BadRequestError, embed.chat.completions.create({ model: embedder, messages }));
    assert.match(error.message, /embedding model/);
  },
};

let failed = 0;
for (const [name, run] of Object.entries(tests)) {
  try {
    await run();
    console.log(`ok    ${name}`);
  } catch (error) {
    failed += 1;
    console.log(`FAIL  ${name}\n${error.stack}`);
  }
}
console.log(`${Object.keys(tests).length - failed} passed, ${failed} failed`);
process.exit(failed ? 1 : 0);
