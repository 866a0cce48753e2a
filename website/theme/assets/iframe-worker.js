/*
 * The theme searches in a worker, and browsers start none for a page that is read from a file. There its script runs in
 * a hidden frame instead, and thinks that it is a worker: what it posts is heard by whoever made this one, and the other
 * way round. Only what the theme uses of a worker is here. The file is called as the theme's own plugin expects it.
 */
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(address) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.append(frame);
      this.frame = frame;
      this.inside = frame.contentWindow;
      const page = this.inside.document;
      page.open(); // from here on the frame stays the one that it is: some browsers load an empty one late
      page.write("<!doctype html><body></body>");
      page.close();
      this.inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      const script = page.createElement("script");
      script.src = address;
      this.ready = new Promise((resolve, reject) => {
        script.onload = resolve;
        script.onerror = () => reject(new Error(`${address} cannot be read`));
      });
      page.body.append(script);
    }

    postMessage(data) {
      const copy = structuredClone(data);
      this.ready.then(() => this.inside.dispatchEvent(new MessageEvent("message", { data: copy })));
    }

    terminate() {
      this.frame.remove();
    }
  };
}
