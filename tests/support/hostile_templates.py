"""Chat templates that would never end, fill the memory, or reach out of their sandbox."""

from __future__ import annotations

LISTS = "{% set ns = namespace(x=[1], y=[1]) %}{% for i in range(50) %}{% set ns.x = [ns.x, ns.x] %}"
LISTS += "{% set ns.y = [ns.y, ns.y] %}{% endfor %}"
TUPLES = "{% set ns = namespace(x=(1,)) %}{% for i in range(50) %}{% set ns.x = (ns.x, ns.x) %}{% endfor %}"
GROWING = "{% set ns = namespace(x='a') %}{% for i in range(60) %}%s{% endfor %}{{ ns.x }}"
BIG = "{% set x = 'a' * 1000000 %}"

HOSTILE = {
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in messages %}{% endfor %}{% endfor %}"
    "{% endfor %}",
    "loops that write": "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}",
    "loops over turns": "{% for a in messages * 1000 %}{% for b in messages * 1000 %}{% for c in messages * 1000 %}x"
    "{% endfor %}{% endfor %}{% endfor %}",
    "a loop over loops": "{% for a in range(9) recursive %}{{ loop(range(9)) }}{% endfor %}",
    "a long range": "{% for a in range(10**9) %}x{% endfor %}",
    "a text many times": "{{ 'a' * 10**10 }}",
    "many times a text": "{{ 10**10 * 'a' }}",
    "a list many times": "{{ [0] * 10**9 }}",
    "a power": "{{ 2**100000000 }}",
    "squares": "{% set ns = namespace(x=9) %}{% for i in range(60) %}{% set ns.x = ns.x * ns.x %}{% endfor %}",
    "doubling by ~": GROWING.replace("%s", "{% set ns.x = ns.x ~ ns.x %}"),
    "doubling by +": GROWING.replace("%s", "{% set ns.x = ns.x + ns.x %}"),
    "doubling by a block": GROWING.replace("%s", "{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}"),
    "doubling by join": GROWING.replace("%s", "{% set ns.x = [ns.x, ns.x]|join %}"),
    "doubling by format": GROWING.replace("%s", "{% set ns.x = '%s%s' % (ns.x, ns.x) %}"),
    "doubling by .format": GROWING.replace("%s", "{% set ns.x = '{0}{0}'.format(ns.x) %}"),
    "doubling by replace": GROWING.replace("%s", "{% set ns.x = ns.x|replace('a', 'aa') %}"),
    "doubling by a macro": "{% macro f(x) %}{{ x }}{{ x }}{% endmacro %}"
    + GROWING.replace("%s", "{% set ns.x = f(ns.x) %}"),
    "lists that double, written": LISTS + "{{ ns.x }}",
    "lists that double, as JSON": LISTS + "{{ ns.x|tojson }}",
    "lists that double, as text": LISTS + "{{ ns.x|string|length }}",
    "lists that double, mapped": LISTS + "{{ [ns.x]|map('string')|list }}",
    "lists that double, joined": LISTS + "{{ '' ~ ns.x }}",
    "lists that double, formatted": LISTS + "{{ '%s' % ns.x }}",
    "lists that double, compared": LISTS + "{{ ns.x == ns.y }}",
    "lists that double, tested": LISTS + "{{ ns.x is eq(ns.y) }}",
    "lists that double, looked for": LISTS + "{{ ns.x in [ns.y] }}",
    "lists that double, counted": LISTS + "{{ [ns.x].count(ns.y) }}",
    "lists that double, sorted": LISTS + "{{ [ns.x, ns.y]|sort }}",
    "tuples that double, as a key": TUPLES + "{{ {ns.x: 1} }}",
    "tuples that double, looked up": TUPLES + "{{ {}[ns.x] }}",
    "tuples that double, got": TUPLES + "{{ {}.get(ns.x) }}",
    "tuples that double, in a dict": TUPLES + "{{ dict([(ns.x, 1)]) }}",
    "tuples that double, made unique": TUPLES + "{{ [ns.x]|unique|list }}",
    "a width by a filter": "{{ 'a'|center(10**9) }}",
    "a width by a method": "{{ 'a'.ljust(10**10) }}",
    "a width in a format": "{{ '{:>10000000000}'.format(1) }}",
    "a width that is computed": "{{ '{:{}}'.format(1, 10**10) }}",
    "a width by %": "{{ '%10000000000d' % 1 }}",
    "a width by %*": "{{ '%*d' % (10**10, 1) }}",
    "digits by %": "{{ '%.1000000000f' % 1.5 }}",
    "a width by the filter format": "{{ '%1000000000d'|format(1) }}",
    "a width by attr": "{{ ('{:>1000000000}'|attr('format'))(1) }}",
    "a width by format_map": "{{ '{a:>10000000000}'.format_map({'a': 1}) }}",
    "an indent": "{{ 'a\n'|indent(10**9) }}",
    "an indent of text": "{{ ('\n' * 100000)|indent('a' * 10000) }}",
    "an indent of JSON": "{{ [[[1]]]|tojson(indent=10**9) }}",
    "a replacement": "{{ ('a' * 1000000).replace('a', 'b' * 100000)|length }}",
    "a join": "{{ ('a' * 100000).join(range(99999)|map('string'))|length }}",
    "tabs": "{{ ('\t' * 100000).expandtabs(10000)|length }}",
    "bytes of a number": "{{ (1).to_bytes(10**9)|length }}",
    "an encoding": "{{ ('a' * 100000).encode('idna') }}",
    "a binary number": "{{ ('1' * 1000000)|int(base=2) }}",
    "batches": "{{ [1]|batch(10**9, 'x')|list }}",
    "a rounding": "{{ 1.5|round(10**9, 'floor') }}",
    "words": "{{ lipsum(10**7) }}",
    "links": BIG + "{{ x|urlize }}",
    "a layout of time": "{{ strftime_now('%1000000000d') }}",
    "a macro that calls itself": "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}",
    "a macro that calls itself twice": "{% macro f(n) %}{% if n > 0 %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}"
    "{% endmacro %}{{ f(40) }}",
    "a block in itself": "{% block a %}{{ self.a() }}{{ self.a() }}{% endblock %}",
    "callers": "{% macro m() %}{{ caller() }}{{ caller() }}{% endmacro %}"
    + "{% call m() %}" * 40
    + "x"
    + "{% endcall %}" * 40,
    "brackets": "{{ " + "(" * 30000 + "1" + ")" * 30000 + " }}",
    "conditions in conditions": "{% if 1 %}" * 5000 + "{% endif %}" * 5000,
    "loops in loops": "{% for a in [1] %}" * 300 + "{% endfor %}" * 300,
    "negations": "{{ " + "not " * 30000 + "1 }}",
    "many parts": "{{ a }}" * 2500,
    "a long source": "x" * (1 << 18),
    "slices in a loop": BIG + "{% for i in range(99999) %}{% set y = x[1:] %}{% endfor %}",
    "text in a loop": "{% for i in range(99999) %}" + "x" * 100000 + "{% endfor %}",
    "values in a loop": BIG + "{% for i in range(99999) %}{{ x }}{% endfor %}",
    "a list of texts": BIG
    + "{% set ns = namespace(l=[]) %}{% for i in range(9999) %}{% set ns.l = ns.l + [x ~ i] %}{% endfor %}",
    "classes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals": "{{ cycler.__init__.__globals__.os.system('true') }}",
    "a class by attr": "{{ ''|attr('__class__') }}{{ (''|attr('__class__')).x }}",
    "a name in a namespace": "{% set ns = namespace(__class__=1) %}",
    "a dict that holds itself": "{% set d = {} %}{% set _ = d.update({'a': d}) %}{{ d }}",
    "another template": "{% include '/etc/passwd' %}",
    "a module": "{% import 'os' as os %}",
    "a division": "{{ 1 / 0 }}",
    "no template": "{% for %}",
}
