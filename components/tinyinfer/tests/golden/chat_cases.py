"""Writes chat.jsonl: conversations through templates, rendered by transformers' apply_chat_template.

    pip install transformers==5.23.0 jinja2==3.1.6
    python chat_cases.py > chat.jsonl

The templates are written for this test. Each uses what published templates use, some of it oddly on purpose.
The date shown by strftime_now is fixed at 2024-02-29 13:05:09 UTC.
"""

import datetime
import json
import sys
import warnings

warnings.filterwarnings("ignore")
import transformers.utils.chat_template_utils as templates  # noqa: E402

NOW = datetime.datetime(2024, 2, 29, 13, 5, 9, tzinfo=datetime.timezone.utc)


class FixedClock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return NOW


templates.datetime = FixedClock

TEMPLATES = {
    "chatml": "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "{{ '<|im_start|>system\nBe brief.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "headers": "{{- bos_token }}\n{%- if messages[0]['role'] == 'system' %}\n"
    "    {%- set system = messages[0]['content']|trim %}\n    {%- set rest = messages[1:] %}\n{%- else %}\n"
    "    {%- set system = '' %}\n    {%- set rest = messages %}\n{%- endif %}\n"
    "{{- '<|header|>system<|end|>\n\n' }}\n{{- 'Today: ' + strftime_now('%d %b %Y') + '\n\n' }}\n{{- system }}\n"
    "{%- for m in rest %}\n    {{- '<|header|>' + m.role + '<|end|>\n\n' + m.content | trim + eos_token }}\n{%- endfor %}\n"
    "{%- if add_generation_prompt %}\n    {{- '<|header|>assistant<|end|>\n\n' }}\n{%- endif %}\n",
    "strict": "{{ bos_token }}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate user/assistant/user, but message ' ~ loop.index ~ ' is ' ~ message['role']) }}"
    "{% endif %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'].strip() + ' ' + eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}",
    "reasoning": "{%- set ns = namespace(last=-1, seen=0) %}\n{%- for m in messages %}\n"
    "  {%- if m.role == 'user' and not (m.content.startswith('<tool>') and m.content.endswith('</tool>')) %}\n"
    "    {%- set ns.last = loop.index0 %}\n    {%- set ns.seen = ns.seen + 1 %}\n  {%- endif %}\n{%- endfor %}\n"
    "{{- 'users: %d of %d, last %s' | format(ns.seen, messages|length, ns.last) + '\n' }}\n"
    "{%- for m in messages %}\n"
    "  {%- if '</think>' in m.content %}\n"
    "    {%- set thought = m.content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}\n"
    "    {%- set content = m.content.split('</think>')[-1].lstrip('\n') %}\n"
    "    {{- m.role|upper ~ ' (' ~ thought ~ '): ' ~ content }}\n"
    "  {%- else %}\n    {{- m.role|title ~ ': ' ~ m.content.replace('\n', ' / ') }}\n  {%- endif %}\n"
    "  {{- '\n' if not loop.last else '' }}\n{%- endfor %}\n"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- '\n<think>\n\n</think>' }}{%- endif %}",
    "json": "{% for m in messages %}{{ m | tojson }}\n{{ m.content | tojson(indent=2) }}\n{{ m | tojson(indent=4) }}\n"
    "{{ {'b': 1, 'a': [true, none, 1.5, 'é<&>']} | tojson(sort_keys=True, ensure_ascii=True) }}\n"
    "{{ [1, {'x': []}] | tojson(separators=[',', ':']) }}{% endfor %}",
    "printing": "{% for m in messages %}{{ true }} {{ none }} {{ 1.0 }} {{ 1e20 }} {{ 0.00001 }} {{ [1, 'a', none, true, {'k': \"it's\"}] }}"
    " {{ missing }} {{ ('a',) }} {{ {'a': 1}.items()|list }} {{ m.content|string|length }} {{ m.get('name', 'anon') }}{% endfor %}",
    "control": "{%- for m in messages %}\n  {%- if m.role == 'tool' %}{% continue %}{% endif %}\n"
    "  {%- if loop.index > 3 %}{% break %}{% endif %}\n  {%- for word in m.content.split() if word|length > 2 %}"
    "{{ loop.index }}{{ word|lower|capitalize }}{{ ',' if not loop.last }}{% else %}-{% endfor %}|\n{%- endfor %}\n"
    "{%- macro tag(name, value='x', extra=none) %}<{{ name }}={{ value }}{% if extra is not none %}:{{ extra }}{% endif %}>{% endmacro %}\n"
    "{{- tag('a') }}{{ tag('b', extra=2) }}{{ tag(name='c', value=3|string + '!') }}"
    "{{ messages | map(attribute='role') | join('+') }} {{ messages | selectattr('role', 'equalto', 'user') | list | length }}"
    " {{ messages[::-1][0].role }} {{ messages[-1]['role'] }} {{ (messages|first).role }} {{ range(3)|list }} {{ 7 // 2 }} {{ 7 % 4 }} {{ 2 ** 5 }}",
    "parts": "{% for m in messages %}{{ m.role }}:{% if m.content is string %}{{ m.content }}{% elif m.content is iterable %}"
    "{% for part in m.content %}{% if part.type == 'text' %}{{ part.text | trim }}{% elif part is mapping and 'image' in part.type %}<img>{% endif %}"
    "{% endfor %}{% else %}({{ m.content is none }}){% endif %};{% endfor %}",
    "marks": "{% for m in messages %}\n{% if m.role == 'assistant' %}\n  {% generation %}\n{{ m.content }}\n  {%- endgeneration %}\n"
    "{% else %}\n  [{{ m.content }}]\n{% endif %}\n{% endfor %}\n",
    "clock": "{{ strftime_now('%Y-%m-%d %H:%M:%S %A %B %a %b %j %y %p %I %-d %-m %e %% %F %T %u %w') }}{{ messages|length }}",
}

U = lambda c: {"role": "user", "content": c}  # noqa: E731
A = lambda c: {"role": "assistant", "content": c}  # noqa: E731
S = lambda c: {"role": "system", "content": c}  # noqa: E731

CONVERSATIONS = {
    "one": [U("Hello, world")],
    "system": [S("  You are terse.\n"), U(" What is 2 + 2? "), A(" 4 "), U("And \"3\" <& 'x'>?")],
    "thinking": [U("Why?\nReally?"), A("<think>\nlet me see\n</think>\n\nBecause."), U("<tool>ignored</tool>")],
    "unicode": [U("naïve 👩‍🚀 \u2028 \x01 \x7f \\ / tab\t"), A("日本語 ok")],
    "two_users": [U("a"), U("b")],
    "tool": [U("call it now please"), {"role": "tool", "content": "result of it", "name": "f"}, A("Done it all")],
    "parts": [{"role": "user", "content": [{"type": "text", "text": " see "}, {"type": "image"}]}, A("a cat")],
    "empty": [U("")],
}


def cases():
    for template_name, template in TEMPLATES.items():
        for conversation_name, messages in CONVERSATIONS.items():
            for options in ({"add_generation_prompt": True}, {"continue_final_message": True}, {"enable_thinking": False}):
                arguments = dict(options)
                if arguments.get("continue_final_message") and not isinstance(messages[-1]["content"], str):
                    continue
                if "continue_final_message" in options and template_name in ("json", "printing", "control", "clock"):
                    continue  # these show no message as it stands
                if "enable_thinking" in options and template_name != "reasoning":
                    continue
                case = {"template": template_name, "conversation": conversation_name, "options": options}
                try:
                    rendered, _ = templates.render_jinja_template(
                        [messages], chat_template=template, bos_token="<s>", eos_token="</s>", **arguments
                    )
                    case["text"] = rendered[0]
                except Exception as error:  # what the template or Python refuses
                    case["error"] = str(error)
                yield case


def main():
    out = sys.stdout
    out.write(json.dumps({"templates": TEMPLATES, "conversations": CONVERSATIONS}) + "\n")
    for case in cases():
        out.write(json.dumps(case) + "\n")


main()
