// Turns pages by keyboard, and closes one picture before the next opens. Without it, pictures can still be enlarged.
"use strict";
const turn = button => {
  const from = button.closest("[popover]");
  const to = document.getElementById(button.getAttribute("popovertarget"));
  from.hidePopover();
  to.showPopover();
  to.querySelector(`[data-turn="${button.dataset.turn}"]`)?.focus();
};
document.addEventListener("click", event => {
  const button = event.target.closest("[data-turn]");
  if (button) {
    event.preventDefault();
    turn(button);
  }
});
document.addEventListener("keydown", event => {
  const wanted = { ArrowLeft: "previous", ArrowRight: "next" }[event.key];
  const button = wanted && document.querySelector(`:popover-open [data-turn="${wanted}"]`);
  if (button) {
    event.preventDefault();
    turn(button);
  }
});
