// Answers on their way to the file, one after another. While one cannot be saved, no further one is taken.

export class Saving {
  constructor(onChange) {
    this.onChange = onChange;
    this.waiting = 0;
    this.lost = null; // the answer that found no server
    this.last = Promise.resolve();
    window.addEventListener("beforeunload", event => {
      if (this.waiting || this.lost) event.preventDefault();
    });
  }

  // Sends an answer; calls refused(status, content) where the server does not take it.
  save(told, refused) {
    this.waiting += 1;
    this.onChange();
    this.last = this.last.then(() => this.send(told, refused));
    return this.last;
  }

  async send(told, refused) {
    try {
      const answer = await fetch("answer", {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify(told),
      });
      const content = await answer.json();
      this.lost = null;
      this.waiting -= 1;
      if (!answer.ok) refused(answer.status, content);
    } catch {
      this.lost = { told, refused };
      this.waiting -= 1;
    }
    this.onChange();
  }

  // Tries the lost answer again.
  again() {
    if (!this.lost) return;
    const { told, refused } = this.lost;
    this.lost = null;
    this.save(told, refused);
  }
}
