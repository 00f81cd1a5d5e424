#!/usr/bin/env python3
"""Makes the table of what a libvirt domain can have out of libvirt's relax-NG schemas.

usage: domain-schema.py FOLDER... > domain-schema.txt      (each FOLDER holds domain.rng and what it includes)
"""
import sys, os
import xml.etree.ElementTree as ET

RNG = '{http://relaxng.org/ns/structure/1.0}'
ANY = None
PREFIXES = {'http://libvirt.org/schemas/domain/qemu/1.0': 'qemu:', 'http://libvirt.org/schemas/domain/lxc/1.0': 'lxc:',
            'http://libvirt.org/schemas/domain/bhyve/1.0': 'bhyve:', 'http://libvirt.org/schemas/domain/xen/1.0': 'xen:'}

class Grammar:
    def __init__(self, folder):
        self.folder = folder
        self.defines = {}
        self.start = None
        self.load('domain.rng')

    def load(self, name, overrides=()):
        root = ET.parse(os.path.join(self.folder, name)).getroot()
        self.walk(root, overrides)

    def walk(self, node, overrides=()):
        for child in node:
            tag = child.tag.replace(RNG, '')
            if tag == 'define':
                if child.get('name') not in overrides:
                    self.defines.setdefault(child.get('name'), []).append(child)
            elif tag == 'include':
                inner = {c.get('name') for c in child if c.tag == RNG + 'define'}
                has_start = any(c.tag == RNG + 'start' for c in child)
                before = self.start
                self.load(child.get('href'), inner)
                if has_start:
                    self.start = before
                self.walk(child)
            elif tag == 'start':
                self.start = child
            elif tag in ('div', 'grammar'):
                self.walk(child, overrides)

def tag(p): return p.tag.replace(RNG, '')
def kids(p): return [c for c in p if isinstance(c.tag, str) and tag(c) not in ('name', 'anyName', 'nsName')]
def names(p):
    if p.get('name'): return [p.get('name')]
    out = []
    for c in p:
        if tag(c) == 'name': out.append(c.text.strip())
        elif tag(c) == 'choice': out += [n.text.strip() for n in c if tag(n) == 'name'] or ['*']
        elif tag(c) in ('anyName', 'nsName'): out.append('*')
    return out

def values(g, p, depth=0):
    """The words a pattern of text allows; ANY where it is no list of words."""
    t = tag(p)
    if t == 'value': return {(p.text or '').strip()}
    if t == 'empty': return {''}
    if t in ('text', 'data', 'list', 'oneOrMore', 'zeroOrMore', 'mixed'): return ANY
    if t == 'ref':
        return union([values(g, c, depth + 1) for d in g.defines[p.get('name')] for c in kids(d)]) if depth < 50 else ANY
    if t in ('choice', 'group', 'optional', 'interleave', 'attribute', 'define', 'element'):
        ks = [k for k in kids(p)]
        return union([values(g, c, depth + 1) for c in ks]) if ks else ANY
    return ANY

def union(sets):
    out = set()
    for s in sets:
        if s is ANY: return ANY
        out |= s
    return out

class Content:
    def __init__(self): self.attrs, self.children, self.text = {}, {}, set()
    def add(self, other):
        for k, v in other.attrs.items():
            self.attrs[k] = union([self.attrs[k], v]) if k in self.attrs else v
        for k, v in other.children.items(): self.children.setdefault(k, set()).update(v)
        self.text = union([self.text, other.text])
        return self

def content(g, p, rule, seen=()):
    """What a pattern allows directly inside an element; None where `rule` (attribute, value) forbids it."""
    t = tag(p)
    out = Content()
    if t == 'attribute':
        for n in names(p):
            v = values(g, p)
            if rule and n == rule[0] and v is not ANY:
                if rule[1] not in v: return None
                v = {rule[1]}
            out.attrs[n] = v
        return out
    if t == 'element':
        for n in names(p):
            ns = p.get('ns')
            prefix = PREFIXES.get(ns, '') if ns else ''
            out.children.setdefault(prefix + n, set()).add((id(g), id(p)))
        NODES[(id(g), id(p))] = (g, p)
        return out
    if t in ('text', 'data', 'list'): out.text = ANY; return out
    if t == 'value': out.text = {(p.text or '').strip()}; return out
    if t in ('empty',): return out
    if t == 'notAllowed': return None
    if t == 'mixed': out.text = ANY
    if t == 'ref':
        name = p.get('name')
        if name in seen: return out
        # Several definitions of one name are choices here (libvirt combines them in no other way).
        some = [one for one in (group(g, kids(d), rule, seen + (name,)) for d in g.defines[name]) if one is not None]
        for one in some: out.add(one)
        return out if some else None
    optional = t in ('optional', 'zeroOrMore')
    if t == 'choice':
        some = [one for one in (content(g, c, rule, seen) for c in kids(p)) if one is not None]
        if not some and kids(p): return None
        for one in some: out.add(one)
        return out
    for c in kids(p):
        one = content(g, c, rule, seen)
        if one is None:
            # Left out it can be, but not where the very attribute stands there with another value.
            if optional and not (tag(c) == 'attribute' and rule[0] in names(c)): return Content()
            return None
        out.add(one)
    return out

def group(g, patterns, rule, seen):
    out = Content()
    for c in patterns:
        one = content(g, c, rule, seen)
        if one is None: return None
        out.add(one)
    return out

NODES = {}

def of(key, rule=None):
    out, any_one = Content(), False
    for (gid, pid) in key:
        g, p = NODES[(gid, pid)]
        inner, fine = Content(), True
        for c in kids(p):
            one = content(g, c, rule)
            if one is None: fine = False; break
            inner.add(one)
        if fine: out.add(inner); any_one = True
    return out if any_one else None

def frozen(c): return (tuple(sorted((k, None if v is ANY else tuple(sorted(v))) for k, v in c.attrs.items())),
                       tuple(sorted((k, frozenset(v)) for k, v in c.children.items())),
                       None if c.text is ANY else tuple(sorted(c.text)))

def variants(key):
    whole = of(key) or Content()
    for disc in ('type', 'mode', 'name', 'model'):
        vals = whole.attrs.get(disc, ANY)
        if vals is ANY or len(vals) < 2: continue
        found = {}
        for v in sorted(vals):
            one = of(key, (disc, v))
            if one is None: continue
            one.attrs[disc] = whole.attrs[disc]
            found[v] = one
        if any(frozen(one) != frozen(whole) for one in found.values()): return whole, disc, found
    return whole, None, {}

def main():
    start = set()
    for folder in sys.argv[1:]:
        g = Grammar(folder)
        GR.append(g)
        s = Content()
        for c in kids(g.start):
            one = content(g, c, None)
            s.add(one)
        start |= s.children['domain']
    first = frozenset(start)
    todo, states, where = [first], {}, {first: 'domain'}
    while todo:
        key = todo.pop(0)
        if key in states: continue
        states[key] = variants(key)
        whole, disc, found = states[key]
        for c in [whole] + list(found.values()):
            for n, kid in sorted(c.children.items()):
                kid = frozenset(kid)
                where.setdefault(kid, where[key] + '/' + n)
                todo.append(kid)
    # States that say the same are one.
    block = {k: 0 for k in states}
    while True:
        def sig(c): return (tuple(sorted((k, None if v is ANY else tuple(sorted(v))) for k, v in c.attrs.items())),
                            tuple(sorted((k, block[frozenset(v)]) for k, v in c.children.items())),
                            None if c.text is ANY else tuple(sorted(c.text)))
        sigs = {}
        new = {}
        for k in states:
            whole, disc, found = states[k]
            s = (sig(whole), disc, tuple((v, sig(c)) for v, c in sorted(found.items())))
            new[k] = sigs.setdefault(s, len(sigs))
        same = len(set(new.values())) == len(set(block.values()))
        block = new
        if same: break
    number, order = {}, []
    for k in states:
        if block[k] not in number:
            number[block[k]] = len(order)
            order.append(k)
    def show(c, base=None):
        out = []
        for n, v in sorted(c.attrs.items()):
            word = '@' + n + ('' if v is ANY else '=' + '|'.join(sorted(v)))
            out.append(word)
        for n, v in sorted(c.children.items()):
            out.append('%s:%d' % (n, number[block[frozenset(v)]]))
        if c.text is ANY: out.append('*')
        elif c.text: out.append('*=' + '|'.join(sorted(c.text)))
        return out
    for at, k in enumerate(order):
        whole, disc, found = states[k]
        base = show(whole)
        print('%d %s' % (at, where[k]))
        common = [w for w in base if all(w in show(c) for c in found.values())]
        print(' ' + ' '.join(w.replace(' ', '~') for w in (common if disc else base)))
        if disc:
            groups = {}
            for v, c in found.items():
                groups.setdefault(tuple(w for w in show(c) if w not in common), []).append(v)
            for words, vs in groups.items():
                print(' ?%s=%s %s' % (disc, '|'.join(vs), ' '.join(w.replace(' ', '~') for w in words)))
GR = []
main()
