"""From a request to the text that the model goes on with. The only place where a chat template is rendered."""

from typing import Any

import jinja2

from workers.runtimes.torch_runner.generate import Prompt, Refused


def render(prompt: Prompt, tokenizer: Any) -> tuple[str, bool]:
    """The text, and whether the tokenizer has yet to add its special tokens (a template writes them itself).

    Templates run in this child, in transformers' sandbox. Without a template, a chat becomes `role: content` lines.

    Raises:
        Refused: 400, the template does not take these messages.
    """
    if isinstance(prompt, str):
        return prompt, True
    if not tokenizer.chat_template:
        return "".join(f"{one['role']}: {one['content']}\n" for one in prompt) + "assistant:", True
    try:
        return tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True), False
    except jinja2.TemplateError as error:
        raise Refused(400, "chat_template", f"The model's chat template refuses: {error}") from error
