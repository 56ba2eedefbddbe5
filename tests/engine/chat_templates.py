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

QWEN2_TOOLS = """\
{%- if tools %}
{{- '<|im_start|>system\\n' }}
{{- messages[0].content if messages[0].role == 'system' else 'Helpful.' }}
{{- '\\n\\n# Tools\\n<tools>' }}
{%- for tool in tools %}{{- '\\n' }}{{- tool | tojson }}{%- endfor %}
{{- '\\n</tools><|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}
{{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
{%- if message.role == 'assistant' %}
{{- '<|im_start|>assistant' }}
{%- if message.content %}{{- '\\n' + message.content }}{%- endif %}
{%- for call in message.tool_calls %}
{%- set call = call.function %}
{{- '\\n<tool_call>\\n{"name": "' + call.name + '", "arguments": ' }}
{{- call.arguments | tojson }}{{- '}\\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- elif message.role == 'tool' %}
{%- set is_first = loop.index0 == 0 or messages[loop.index0 - 1].role != 'tool' %}
{%- if is_first %}{{- '<|im_start|>user' }}{%- endif %}
{{- '\\n<tool_response>\\n' + message.content + '\\n</tool_response>' }}
{%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{- '<|im_end|>\\n' }}{%- endif %}
{%- elif not (loop.first and message.role == 'system') %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""

LLAMA31_TOOLS = """\
{{- bos_token }}
{%- for message in messages %}
{%- if 'tool_calls' in message %}
{%- if message.tool_calls | length != 1 %}
{{- raise_exception('This model only supports single tool-calls at once!') }}
{%- endif %}
{%- set call = message.tool_calls[0].function %}
{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{{- '{"name": "' + call.name + '", "parameters": ' }}
{{- call.arguments | tojson }}{{- '}<|eot_id|>' }}
{%- elif message.role == 'tool' %}
{{- '<|start_header_id|>ipython<|end_header_id|>\\n\\n' + message.content | tojson + '<|eot_id|>' }}
{%- else %}
{{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' }}
{%- if message.role == 'user' and loop.first and tools is not none %}
{{- 'Functions:\\n' }}
{%- for tool in tools %}{{- tool | tojson(indent=4) }}{{- '\\n\\n' }}{%- endfor %}
{%- endif %}
{{- message.content + '<|eot_id|>' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

MISTRAL_TOOLS = """\
{{- bos_token }}
{%- set ns = namespace(last_user=-1) %}
{%- for message in messages %}
{%- if message.role == 'user' %}{% set ns.last_user = loop.index0 %}{% endif %}
{%- endfor %}
{%- for message in messages %}
{%- if message.role == 'user' %}
{%- if tools is not none and loop.index0 == ns.last_user %}
{{- '[AVAILABLE_TOOLS]' + (tools | tojson) + '[/AVAILABLE_TOOLS]' }}
{%- endif %}
{{- '[INST]' + message.content + '[/INST]' }}
{%- elif message.tool_calls is defined %}
{{- '[TOOL_CALLS][' }}
{%- for call in message.tool_calls %}
{%- if call.id | length != 9 %}{{- raise_exception('ids have 9 characters') }}{%- endif %}
{{- '{"name": "' + call.function.name + '", "arguments": ' }}{{- call.function.arguments | tojson }}
{{- ', "id": "' + call.id + '"}' }}
{{- ', ' if not loop.last else ']' + eos_token }}
{%- endfor %}
{%- elif message.role == 'assistant' %}
{{- message.content + eos_token }}
{%- elif message.role == 'tool' %}
{%- if message.tool_call_id | length != 9 %}
{{- raise_exception('ids have 9 characters') }}
{%- endif %}
{{- '[TOOL_RESULTS]{"content": ' + (message.content | tojson) + ', "call_id": "' }}
{{- message.tool_call_id + '"}[/TOOL_RESULTS]' }}
{%- endif %}
{%- endfor %}
"""
MISTRAL_TOOLS_CONTROLS = (
    *MISTRAL_CONTROLS,
    *("[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_CALLS]"),
    *("[TOOL_RESULTS]", "[/TOOL_RESULTS]"),
)

TEXT_TOOLS = """\
{%- if tools %}{{- tools | tojson }}{{- '\\n' }}{% endif %}
{%- for message in messages %}
{{- message.role + ': ' + message.content }}
{%- for call in message.tool_calls or [] %}
{{- '<call>' + call.function.name + '=' + call.function.arguments + '</call>' }}
{%- endfor %}
{{- '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- 'assistant: ' }}{% endif %}
"""

XML_TOOLS = """\
{%- if tools %}{{- tools | tojson }}{{- '\\n' }}{% endif %}
{%- for message in messages %}
{{- message.role + ': ' + message.content }}
{%- for call in message.tool_calls or [] %}
{{- '<function=' + call.function.name + '>' }}
{%- for name, value in call.function.arguments.items() %}
{{- '<parameter=' + name + '>' + value + '</parameter>' }}
{%- endfor %}
{{- '</function>' }}
{%- endfor %}
{{- '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- 'assistant: ' }}{% endif %}
"""

TOOL_FAMILIES: dict[str, tuple[str, tuple[str, ...], str, str]] = {
    "qwen2": (QWEN2_TOOLS, CHATML_CONTROLS, "<|endoftext|>", "<|im_end|>"),
    "llama31": (LLAMA31_TOOLS, LLAMA3_CONTROLS, "<|begin_of_text|>", "<|eot_id|>"),
    "mistral": (MISTRAL_TOOLS, MISTRAL_TOOLS_CONTROLS, "<s>", "</s>"),
    "text": (TEXT_TOOLS, (), "", ""),
    "xml": (XML_TOOLS, (), "", ""),
}
"""In the manner of families that know tools; the last writes calls as nothing here does."""
