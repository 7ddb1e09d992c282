// What each token adds to the score of a passage: shading, and the same in words.
const LEVELS = 5; // strengths of the shading, the strongest for the token with the largest share
const TOLD = 3; // tokens that are named below a passage

// Flat [start, end, share, …] as objects; `all` is the largest amount, by which shading goes.
function sharesOf(flat, score) {
  const spans = [];
  for (let i = 0; i < flat.length; i += 3) spans.push({ start: flat[i], end: flat[i + 1], share: flat[i + 2] });
  return { spans, score, most: spans.reduce((most, { share }) => Math.max(most, Math.abs(share)), 0) };
}

function levelOf(share, most) {
  return most > 0 ? Math.round((LEVELS * Math.abs(share)) / most) : 0;
}

const signed = (share) => `${share > 0 ? "+" : ""}${shortNumber(share)}`;

// A share by the score that it is a part of: more than 100% where others take some of it away.
function shareText({ share }, score) {
  const amount = signed(share);
  return score ? `${amount}, ${Math.round((100 * Math.abs(share)) / Math.abs(score))}% of the score's amount` : amount;
}

// The tokens that are shaded, in the order of the text.
function shades({ spans, score, most }) {
  return spans.filter(({ start, end, share }) => end > start && levelOf(share, most)).map((span) => ({
    ...span,
    kind: `share ${span.share > 0 ? "adds" : "takes"}${levelOf(span.share, most)}`,
    title: shareText(span, score),
  }));
}

function nameOf(text, { start, end }) {
  if (start === end) return end ? "end of the text" : "beginning of the text";
  return text.slice(start, end).trim() || "white space";
}

// The tokens with the largest shares, for those who do not see the shading.
function sharesTold(text, { spans, score, most }) {
  const largest = spans.filter(({ share }) => levelOf(share, most))
    .sort((a, b) => Math.abs(b.share) - Math.abs(a.share)).slice(0, TOLD);
  if (!largest.length) return null;
  return element("small", { class: "told", title: "the tokens that add to the score, or take from it, most" },
    hiddenText("tokens with the largest shares of the score:"),
    largest.flatMap((span) => [element("span", {}, isolated(nameOf(text, span)), ` ${signed(span.share)}`), " "]));
}

function sharesLegend() {
  const sample = (kind, text) => element("span", { class: `share ${kind}4` }, text);
  return element("p", { class: "legend" }, "Shaded: what a token ", sample("adds", "adds to the score"), " of its passage, or ",
    sample("takes", "takes from it"), ", most strongly for the passage's largest share; the three largest are named "
    + "below it. A token stands for its position in the model: what is learnt there is how to go on after it.");
}
