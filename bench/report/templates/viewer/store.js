// The data lie beside the page as scripts, since a page opened as a file may load nothing else.
// Each calls `tdabench(name, payload)`; the payload is raw deflate of JSON, in base64.
const KEPT = 400; // chunks in memory
const chunks = new Map();
const waiting = new Map();
const policy = window.trustedTypes
  ? window.trustedTypes.createPolicy("tdabench-data", { createScriptURL: addressOf })
  : { createScriptURL: addressOf };

function addressOf(name) {
  if (!/^[a-z0-9-]+$/.test(name)) throw new TypeError("no name of a data file");
  return `data/${name}.js`;
}

Object.defineProperty(window, "tdabench", {
  value: (name, payload) => {
    waiting.get(name)?.(payload);
    waiting.delete(name);
  },
});

function load(name) {
  let chunk = chunks.get(name);
  if (chunk === undefined) {
    chunk = fetched(name).then(inflated);
    chunk.catch(() => chunks.delete(name));
  }
  chunks.delete(name); // to the end: what was asked for last is kept longest
  chunks.set(name, chunk);
  if (chunks.size > KEPT) chunks.delete(chunks.keys().next().value);
  return chunk;
}

function fetched(name) {
  return new Promise((resolve, reject) => {
    const script = document.createElement("script");
    const fail = (why) => reject(new Error(`data/${name}.js ${why}. Write the report again.`));
    waiting.set(name, resolve);
    script.addEventListener("error", () => fail("is missing"));
    script.addEventListener("load", () => {
      if (waiting.delete(name)) fail("is damaged");
      script.remove();
    });
    script.src = policy.createScriptURL(name);
    document.head.append(script);
  });
}

async function inflated(payload) {
  const packed = atob(payload);
  const bytes = new Uint8Array(packed.length);
  for (let i = 0; i < packed.length; i++) bytes[i] = packed.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  return JSON.parse(await new Response(stream).text());
}

const padded = (n) => String(n).padStart(5, "0");

async function rankingOf(group, method, query) {
  const name = `${group.name}-m${method.place}-ranks-${padded(Math.floor(query / group.step))}`;
  return method.measures.ranked[query] === "1" ? (await load(name))[query] : null;
}

// The chunk that holds a passage: the last one that starts at or before it.
function chunkOf(group, passage) {
  let low = 0, high = group.passages.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (group.passages[middle] <= passage) low = middle;
    else high = middle;
  }
  return low;
}

async function passagesOf(group, numbers) {
  const places = [...new Set(numbers.map((number) => chunkOf(group, number)))];
  const loaded = await Promise.all(
    places.map((place) => load(`${group.name}-passages-${padded(place)}`)));
  const byPlace = new Map(places.map((place, i) => [place, loaded[i]]));
  return numbers.map((number) => {
    const place = chunkOf(group, number);
    const chunk = byPlace.get(place), row = number - group.passages[place];
    return { id: chunk.id[row], text: chunk.text[row] };
  });
}
