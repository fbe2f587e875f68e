// Pictures of the list: asked for once, those that come next ahead of time, the longest unused let go of.

const KEPT = 12;

export class Pictures {
  constructor(frame) {
    this.frame = frame;
    this.asked = new Map();
  }

  side() {
    const longest = Math.max(this.frame.clientWidth, this.frame.clientHeight) * (window.devicePixelRatio || 1);
    return Math.min(2560, Math.max(512, Math.ceil(longest / 256) * 256));
  }

  // {url} or {problem}
  get(at, ahead = []) {
    if (!this.asked.has(at)) this.asked.set(at, this.ask(at, this.side(), ahead));
    const found = this.asked.get(at);
    this.asked.delete(at);
    this.asked.set(at, found); // the last that goes
    return found;
  }

  prefetch(numbers, ahead) {
    for (const at of numbers) if (!this.asked.has(at)) this.asked.set(at, this.ask(at, this.side(), ahead));
    for (const [at, found] of this.asked) {
      if (this.asked.size <= KEPT) break;
      this.asked.delete(at);
      found.then(({ url }) => url && setTimeout(() => URL.revokeObjectURL(url), 2000));
    }
  }

  forget(at) {
    this.asked.delete(at);
  }

  async ask(at, side, ahead = []) {
    try {
      const answer = await fetch(`picture/${at}?px=${side}&ahead=${ahead.join(",")}`);
      if (answer.ok) return { url: URL.createObjectURL(await answer.blob()) };
      return { problem: (await answer.json()).problem };
    } catch {
      return { problem: "the server of this page does not answer" };
    }
  }
}
