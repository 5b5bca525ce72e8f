// npm's openai and @huggingface/inference against the server at argv[2]; any failure ends it.

import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const [url, busyUrl, key] = process.argv.slice(2);
const require = createRequire(`${process.cwd()}/`); // the packages are where it is started
const load = (name) => import(pathToFileURL(require.resolve(name)).href);

const { default: OpenAI, RateLimitError, UnprocessableEntityError } = await load('openai');
const { InferenceClient } = await load('@huggingface/inference');
const { InferenceClient: InferenceClient3 } = await load('inference-3');

const messages = [{ role: 'user', content: 'What is the capital of France?' }];
const answer = 'The capital of France is Paris.';
const prompt = 'The capital of France is';
const greedy = { model: 'tgi', temperature: 0 };

async function all(stream) {
  const items = [];
  for await (const item of stream) items.push(item);
  return items;
}

async function openaiChat() {
  const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: '-', maxRetries: 0 });
  const whole = await client.chat.completions.create({ ...greedy, messages });
  assert.equal(whole.choices[0].message.content, answer);
  assert.equal(whole.usage.completion_tokens, 13);
  const options = { stream: true, stream_options: { include_usage: true } };
  const chunks = await all(await client.chat.completions.create({ ...greedy, messages, ...options }));
  const last = chunks.pop();
  assert.equal(chunks.map((chunk) => chunk.choices[0].delta.content).join(''), answer);
  assert.equal(chunks.at(-1).choices[0].finish_reason, 'stop');
  assert.equal(last.usage.completion_tokens, 13);
  const helper = client.chat.completions.stream({ ...greedy, messages });
  assert.equal(await helper.finalContent(), answer);
}

async function openaiCompletionsAndModels() {
  const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: '-', maxRetries: 0 });
  const text = await client.completions.create({ ...greedy, prompt, max_tokens: 8 });
  assert.equal(text.choices[0].text, ' Paris.');
  const [model] = await all(client.models.list());
  assert.equal((await client.models.retrieve(model.id)).id, model.id);
}

async function openaiErrors() {
  const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: '-', maxRetries: 0 });
  const refused = client.chat.completions.create({ model: 'tgi', messages, top_p: -1 });
  await assert.rejects(refused, (error) => {
    assert(error instanceof UnprocessableEntityError);
    assert.equal(error.param, 'top_p');
    return true;
  });
  const busy = new OpenAI({ baseURL: `${busyUrl}/v1`, apiKey: key, maxRetries: 0 });
  await assert.rejects(busy.chat.completions.create({ ...greedy, messages }), RateLimitError);
}

async function huggingFace() {
  const client = new InferenceClient('hf_x', { endpointUrl: url });
  const whole = await client.chatCompletion({ messages, temperature: 0 });
  assert.equal(whole.choices[0].message.content, answer);
  const chunks = await all(client.chatCompletionStream({ messages, temperature: 0 }));
  assert.equal(chunks.map((chunk) => chunk.choices[0].delta.content).join(''), answer);
}

// Its fourth version sends textGeneration to /v1/completions; TGI's documentation means the third.
async function huggingFaceText() {
  const client = new InferenceClient3('hf_x', { endpointUrl: url });
  const parameters = { max_new_tokens: 8, return_full_text: false };
  const whole = await client.textGeneration({ inputs: prompt, parameters });
  assert.equal(whole.generated_text, ' Paris.');
  const events = await all(client.textGenerationStream({ inputs: prompt, parameters }));
  const text = events.map((event) => (event.token.special ? '' : event.token.text)).join('');
  assert.equal(text, ' Paris.');
  assert.equal(events.at(-1).generated_text, ' Paris.');
}

await openaiChat();
await openaiCompletionsAndModels();
await openaiErrors();
await huggingFace();
await huggingFaceText();
