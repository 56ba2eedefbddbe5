"""Chat templates for tests: SmolLM2's own, and small ones in the manner of well-known families."""

SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    "<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CHATML_CONTROLS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")

LLAMA3 = """\
{% for message in messages %}
{% set text = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' +
   message['content'] | trim + '<|eot_id|>' %}
{% if loop.index0 == 0 %}{% set text = bos_token + text %}{% endif %}
{{- text }}
{%- endfor %}
{% if add_generation_prompt %}
{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
"""
LLAMA3_CONTROLS = (
    "<|begin_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|python_tag|>",
)

GEMMA = """\
{{ bos_token }}
{%- if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}\
{% endif %}
{%- for message in messages %}
{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
{%- endif %}
{{- '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\n' }}
{{- message['content'] | trim + '<end_of_turn>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}
"""
GEMMA_CONTROLS = ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>")

MISTRAL = """\
{{- bos_token }}
{%- set ns = namespace(system='') %}
{%- for message in messages %}
{%- if message.role == 'system' %}
{%- set ns.system = message.content + '\n\n' %}
{%- elif message.role == 'user' %}
{{- '[INST] ' + (ns.system if loop.last else '') + message.content + '[/INST]' }}
{%- elif message.role == 'assistant' %}
{{- ' ' + message.content + eos_token }}
{%- else %}
{{- raise_exception('Only user and assistant roles are supported!') }}
{%- endif %}
{%- endfor %}
"""
MISTRAL_CONTROLS = ("<s>", "</s>", "[INST]", "[/INST]")

QWEN3 = """\
{%- set ns = namespace(last_user=-1) %}
{%- for message in messages %}
{%- if message.role == 'user' %}{% set ns.last_user = loop.index0 %}{% endif %}
{%- endfor %}
{%- if ns.last_user < 0 %}{{ raise_exception('No user query found in messages.') }}{% endif %}
{%- for message in messages %}
{%- set content = message.content %}
{%- if message.role == 'assistant' and '</think>' in content and loop.index0 < ns.last_user %}
{%- set content = content.split('</think>')[-1].lstrip('\n') %}
{%- endif %}
{{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}
"""

ZEPHYR = """\
{% for message in messages %}
{{ '<|' + message['role'] + '|>\n' + message['content'] + eos_token }}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}
"""
ZEPHYR_CONTROLS = ("<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>")

FAMILIES: dict[str, tuple[str, tuple[str, ...], str, str]] = {
    "smollm2": (SMOLLM2, CHATML_CONTROLS, "<|im_start|>", "<|im_end|>"),
    "llama3": (LLAMA3, LLAMA3_CONTROLS, "<|begin_of_text|>", "<|eot_id|>"),
    "gemma": (GEMMA, GEMMA_CONTROLS, "<bos>", "<eos>"),
    "mistral": (MISTRAL, MISTRAL_CONTROLS, "<s>", "</s>"),
    "qwen3": (QWEN3, CHATML_CONTROLS, "<|endoftext|>", "<|im_end|>"),
    "zephyr": (ZEPHYR, ZEPHYR_CONTROLS, "<s>", "</s>"),
}
