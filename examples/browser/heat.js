// Runs a file of `camfast export cat.onnx --frames 480x640 --overlay` in the page, and draws the picture that it gives.
// Nothing is sent anywhere: network and photograph stay in the browser.

const canvas = document.getElementById("picture");
const pen = canvas.getContext("2d", { willReadFrequently: true });
const say = (words) => { document.getElementById("words").textContent = words; };

// The canvas's photograph as a frame, uint8 [1, height, width, 3]: its pixels without their alpha.
function frameOf() {
  const { data, width, height } = pen.getImageData(0, 0, canvas.width, canvas.height);
  const pixels = new Uint8Array(width * height * 3);
  for (let i = 0; i < width * height; i++) pixels.set(data.subarray(4 * i, 4 * i + 3), 3 * i);
  return new ort.Tensor("uint8", pixels, [1, height, width, 3]);
}

// Draws an image over the whole canvas; what is too wide or too high is cut away on both sides.
function show(image) {
  const scale = Math.max(canvas.width / image.width, canvas.height / image.height);
  const [width, height] = [image.width * scale, image.height * scale];
  pen.drawImage(image, (canvas.width - width) / 2, (canvas.height - height) / 2, width, height);
}

function showPicture(rgb) {
  const shown = pen.createImageData(canvas.width, canvas.height);
  shown.data.fill(255);
  for (let i = 0; i < rgb.length / 3; i++) shown.data.set(rgb.subarray(3 * i, 3 * i + 3), 4 * i);
  pen.putImageData(shown, 0, 0);
}

// The best class of scores as logits, and its share.
function best(scores) {
  const top = scores.indexOf(Math.max(...scores));
  const share = 1 / scores.reduce((sum, score) => sum + Math.exp(score - scores[top]), 0);
  return [top, share];
}

// The metadata of an ONNX file, {key: value}. ONNX Runtime Web does not give them, so they are read from the file's bytes:
// fields 14 of the outermost message, each a message of field 1, the key, and field 2, the value.
function metadataOf(bytes) {
  function* fields(bytes) {
    let at = 0;
    const number = () => {
      let value = 0, factor = 1, byte;
      do { byte = bytes[at++]; value += (byte & 127) * factor; factor *= 128; } while (byte & 128);
      return value;
    };
    while (at < bytes.length) {
      const tag = number(), length = tag % 8 === 2 ? number() : 0;
      yield [Math.floor(tag / 8), bytes.subarray(at, at + length)];
      at += length;
      if (tag % 8 === 0) number();
    }
  }
  const text = (part) => new TextDecoder().decode(part);
  const notes = [...fields(bytes)].filter(([field]) => field === 14).map(([, entry]) => Object.fromEntries(fields(entry)));
  return Object.fromEntries(notes.map((entry) => [text(entry[1]), text(entry[2])]));
}

async function bytesOf(address) {
  const answer = await fetch(address);
  if (!answer.ok) throw new Error(`${address}: ${answer.status} ${answer.statusText}`);
  return answer;
}

async function main() {
  const file = new Uint8Array(await (await bytesOf("cat.onnx")).arrayBuffer());
  const names = JSON.parse(metadataOf(file).class_names ?? "[]");
  const session = await ort.InferenceSession.create(file);
  [canvas.height, canvas.width] = session.inputMetadata[0].shape.slice(1, 3);

  async function explain(photo) {
    show(await createImageBitmap(photo));
    say("Looking.");
    const begin = performance.now();
    const { scores, picture } = await session.run({ frames: frameOf() });
    const [top, share] = best(scores.data);
    showPicture(picture.data);
    say(`${names[top] ?? `class ${top}`}, ${Math.round(100 * share)} %, in ${Math.round(performance.now() - begin)} ms`);
  }

  const attempt = (photo) => explain(photo).catch((error) => say(error.message));
  document.getElementById("photo").addEventListener("change", ({ target }) => target.files[0] && attempt(target.files[0]));
  await attempt(await (await bytesOf("cat.jpg")).blob());
}

main().catch((error) => say(error.message));
