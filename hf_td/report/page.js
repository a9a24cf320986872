"use strict";
// Shows the rows of the sparsity that the slider is at. Without scripts all rows are shown.
const slider = document.getElementById("sparsity");
const output = document.getElementById("sparsity-shown");
const groups = Array.from(document.querySelectorAll("#figures tbody"));
function show() {
  groups.forEach((group, place) => { group.hidden = place !== Number(slider.value); });
  const name = groups[slider.value].dataset.sparsity;
  output.textContent = name;
  slider.setAttribute("aria-valuetext", name + " removed");
}
slider.addEventListener("input", show);
document.getElementById("choice").hidden = false;
show();
