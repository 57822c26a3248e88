// Templates: htm makes Preact elements of them, and every value in them is text or a property, never markup.
import { h } from "preact";
import htm from "htm";

export const html = htm.bind(h);
