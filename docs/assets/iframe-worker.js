// Search works in a page that is opened from a disk, too. Browsers give no Worker to file: pages, so there the worker's
// script runs in an empty frame of the page, which passes messages as a Worker would.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.append(frame);
      this.inside = frame.contentWindow;
      const load = (script) =>
        new Promise((done, failed) => {
          const tag = this.inside.document.createElement("script");
          Object.assign(tag, { src: new URL(script, document.baseURI), onload: done, onerror: failed });
          this.inside.document.body.append(tag);
        });
      this.inside.importScripts = (...scripts) => scripts.reduce((before, next) => before.then(() => load(next)), Promise.resolve());
      this.inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      this.ready = load(url);
    }
    postMessage(data) {
      this.ready.then(() => this.inside.dispatchEvent(new this.inside.MessageEvent("message", { data })));
    }
    terminate() {
      this.inside.frameElement.remove();
    }
  };
}
