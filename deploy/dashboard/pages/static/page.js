// Keeps the page's live part fresh while somebody looks, and asks for sample recommendations.
"use strict";

const EVERY_MS = 2500;
const live = document.getElementById("live");
const ask = document.getElementById("ask");
const sample = document.getElementById("sample");

async function refresh() {
  if (document.visibilityState === "hidden") return;
  try {
    const answer = await fetch("live", { signal: AbortSignal.timeout(10000) });
    if (!answer.ok) throw new Error(answer.statusText);
    live.innerHTML = await answer.text();
  } catch {
    const seen = document.getElementById("as-of");
    if (!seen.dataset.lost) seen.textContent += " The loop no longer answers: it has ended, or this page's server has.";
    seen.dataset.lost = "yes";
  }
}

ask.addEventListener("submit", async (event) => {
  event.preventDefault();
  sample.textContent = "generating…";
  try {
    const answer = await fetch("sample?" + new URLSearchParams(new FormData(ask)), { signal: AbortSignal.timeout(60000) });
    sample.innerHTML = await answer.text();
  } catch {
    sample.textContent = "no answer: the loop has ended, or this page's server has";
  }
});

setInterval(refresh, EVERY_MS);
