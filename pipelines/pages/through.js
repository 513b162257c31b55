// Shows one step's samples at a time, the last first; without a script all of them stand below each other.
for (const place of document.querySelectorAll(".through")) {
  const [panel, found] = [place.querySelector(".controls"), [...place.querySelectorAll(".at")]];
  if (!panel) continue;
  const [slider, output] = [panel.querySelector("input"), panel.querySelector("output")];
  const show = () => {
    found.forEach((each, at) => (each.hidden = at != slider.value));
    output.value = found[slider.value].querySelector("h3").textContent.replace("Step ", "");
    slider.setAttribute("aria-valuetext", `step ${output.value}`);
  };
  slider.addEventListener("input", show);
  for (const button of panel.querySelectorAll("button"))
    button.addEventListener("click", () => {
      slider.valueAsNumber += Number(button.dataset.by);
      show();
    });
  panel.hidden = false;
  show();
}
