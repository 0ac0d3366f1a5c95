"use strict";
(() => {
  const list = document.getElementById("cards");
  const cards = Array.from(list.children);
  const control = (id) => document.getElementById(id);
  const order = control("order"), below = control("below"), text = control("text"), count = control("count");
  const chosen = ["class", "reason", "decision"].map((id) => [id, control(id)]);
  for (const card of cards) card.reasons = JSON.parse(card.dataset.reasons);

  function sort() {
    const turned = order.value.startsWith("-") ? -1 : 1;
    const key = order.value.replace("-", "");
    const named = key === "name";
    const value = (card) => named ? card.dataset.name : Number(card.dataset[key]);
    cards.sort((one, other) => {
      const first = value(one), second = value(other);
      return turned * (named ? first.localeCompare(second) : first - second);
    });
    list.append(...cards);
  }

  function filter() {
    const words = text.value.toLowerCase();
    const limit = below.value === "" ? 1 : Number(below.value);
    let shown = 0;
    for (const card of cards) {
      const kept = card.dataset.name.toLowerCase().includes(words)
        && (limit >= 1 || Number(card.dataset.quality) < limit)
        && chosen.every(([id, select]) => select.value === ""
          || (id === "reason" ? card.reasons.includes(select.value) : card.dataset[id] === select.value));
      card.hidden = !kept;
      shown += kept;
    }
    count.textContent = `${shown} shown`;
  }

  order.addEventListener("change", sort);
  for (const input of [below, text, ...chosen.map(([, select]) => select)]) input.addEventListener("input", filter);
})();
