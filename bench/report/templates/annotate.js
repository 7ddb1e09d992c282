(() => {
  const pairs = [...document.querySelectorAll("article")];
  const shown = document.getElementById("shown");
  const bar = document.getElementById("bar");
  const buttons = [...document.querySelectorAll("[data-answer]")];
  const place = "tdabench-annotate-" + document.body.dataset.sheet;
  let kept = true;
  let answers = Object.create(null);
  try {
    const stored = JSON.parse(localStorage.getItem(place) || "{}");
    for (const pair of pairs) {
      const answer = stored[pair.dataset.pair];
      if (["y", "n", "unsure"].includes(answer)) answers[pair.dataset.pair] = answer;
    }
  } catch { kept = false; }
  const isOpen = (pair) => !answers[pair.dataset.pair];
  let current = Math.max(0, pairs.findIndex(isOpen));

  function keep() {
    try { localStorage.setItem(place, JSON.stringify(answers)); kept = true; } catch { kept = false; }
  }
  function show() {
    pairs.forEach((pair, i) => { pair.hidden = i !== current; });
    const done = pairs.filter((pair) => !isOpen(pair)).length;
    bar.value = done;
    shown.textContent = `pair ${current + 1} of ${pairs.length}, ${done} answered` +
      (done === pairs.length ? ": done, download the CSV" : "") +
      (kept ? "" : " (this browser keeps nothing: download before you close the page)");
    const answer = answers[pairs[current].dataset.pair];
    for (const button of buttons) button.setAttribute("aria-pressed", String(button.dataset.answer === answer));
  }
  function move(by) {
    current = Math.min(pairs.length - 1, Math.max(0, current + by));
    show();
  }
  function give(answer) {
    answers[pairs[current].dataset.pair] = answer;
    keep();
    move(1);
  }
  function download() {
    const lines = pairs.map((pair) => `${pair.dataset.pair},${answers[pair.dataset.pair] || ""}`);
    const blob = new Blob([["pair_id,answer", ...lines, ""].join("\n")], { type: "text/csv" });
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = "answers.csv";
    link.click();
    URL.revokeObjectURL(link.href);
  }
  for (const button of buttons) button.addEventListener("click", () => give(button.dataset.answer));
  document.getElementById("download").addEventListener("click", download);
  document.getElementById("clear").addEventListener("click", () => {
    if (confirm("Forget all answers of this sheet?")) { answers = Object.create(null); keep(); current = 0; show(); }
  });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    const key = { y: "y", n: "n", u: "unsure" }[event.key.toLowerCase()];
    if (key) give(key);
    else if (event.key === "ArrowLeft") move(-1);
    else if (event.key === "ArrowRight") move(1);
    else return;
    event.preventDefault();
  });
  show();
})();
