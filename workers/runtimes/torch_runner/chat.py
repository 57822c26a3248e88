"""From a request to the text that the model goes on with. The only place where a chat template is rendered."""

from typing import Any

from workers.bounded import in_time
from workers.runtimes.torch_runner.request import Prompt, Refused

RENDER_SECONDS = 5.0
"""A template of good will takes milliseconds."""


def render(prompt: Prompt, tokenizer: Any, thinking: bool | None = None) -> tuple[str, bool]:
    """The text, and whether the tokenizer has yet to add its special tokens (a template writes them itself).

    Templates run in this child, in transformers' sandbox. Without a template, a chat becomes `role: content` lines.

    Raises:
        Refused: 400, the template does not take these messages, or does not end.
    """
    if isinstance(prompt, str):
        return prompt, True
    if not tokenizer.chat_template:
        return "".join(f"{one['role']}: {one['content']}\n" for one in prompt) + "assistant:", True
    options = {} if thinking is None else {"enable_thinking": thinking}
    try:
        text = in_time(
            RENDER_SECONDS,
            lambda: str(tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True, **options)),
        )
    except TimeoutError:
        # One that hangs within a step of its Python hangs the runner, whose worker ends it.
        message = f"The model's chat template did not end within {RENDER_SECONDS:g} seconds."
        raise Refused(400, "chat_template", message) from None
    except Exception as error:  # a template is code of the model's, and raises what it likes
        raise Refused(400, "chat_template", f"The model's chat template refuses: {error}") from error
    return text, False
