package hooks

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

// Bounds of one list.
const (
	maxText  = 64 << 10 // bytes
	maxHooks = 16
)

// parser reads a list of hooks token by token: encoding/json alone takes the last of two equal keys, takes keys in any case, and
// cannot say where a value stands that it has read.
type parser struct {
	rules Rules
	text  string
	dec   *json.Decoder
	where string // what is being read, for messages
}

// parse reads a list. Its error begins with the line and the column, counted from 1, columns in characters.
func (r Rules) parse(text string) ([]Hook, error) {
	p := &parser{rules: r, text: text}
	if len(text) > maxText {
		return nil, p.fail(maxText, "the text goes on behind its %dth byte, it has %d: at most so many are allowed", maxText, len(text))
	}
	if !utf8.ValidString(text) {
		at := 0
		for i, c := range text {
			if _, size := utf8.DecodeRuneInString(text[i:]); c == utf8.RuneError && size == 1 {
				at = i
				break
			}
		}
		return nil, p.fail(at, "a byte that is not UTF-8")
	}
	p.dec = json.NewDecoder(strings.NewReader(text))
	p.dec.UseNumber()
	return p.list()
}

// fail makes an error about the byte at an offset.
func (p *parser) fail(offset int, format string, args ...any) error {
	before := p.text[:min(offset, len(p.text))]
	line := strings.Count(before, "\n")
	column := utf8.RuneCountInString(before[strings.LastIndexByte(before, '\n')+1:])
	where := ""
	if p.where != "" {
		where = p.where + ": "
	}
	return fmt.Errorf("line %d, column %d: %s%w", line+1, column+1, where, fmt.Errorf(format, args...))
}

// next is where the next token begins.
func (p *parser) next() int {
	at := int(p.dec.InputOffset())
	for at < len(p.text) && strings.IndexByte(" \t\r\n,:", p.text[at]) >= 0 {
		at++
	}
	return at
}

// token gives the next token and where it begins.
func (p *parser) token() (json.Token, int, error) {
	at := p.next()
	t, err := p.dec.Token()
	switch {
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		return nil, at, p.fail(len(p.text), "the text ends here, in the middle of its JSON")
	case err != nil:
		return nil, at, p.fail(at, "this is no JSON: %w", err)
	}
	return t, at, nil
}

// open demands a beginning, '[' or '{'.
func (p *parser) open(delim json.Delim, what string) (int, error) {
	t, at, err := p.token()
	if err != nil {
		return at, err
	}
	if t != delim {
		return at, p.fail(at, "%s is not what has to be here, but %s", kindOf(t), what)
	}
	return at, nil
}

func kindOf(t json.Token) string {
	switch v := t.(type) {
	case json.Delim:
		if v == '[' {
			return "a list"
		}
		return "an object"
	case string:
		return "a string"
	case json.Number:
		return "a number"
	case bool:
		return "true or false"
	}
	return "null"
}

// list reads everything.
func (p *parser) list() ([]Hook, error) {
	if strings.TrimSpace(p.text) == "" {
		return nil, p.fail(0, "it is empty, write [] for no hooks")
	}
	if _, err := p.open('[', "a list of hooks, as in [{\"name\": \"routes\", \"exec\": [\"/routes\"]}]"); err != nil {
		return nil, err
	}
	var out []Hook
	for p.dec.More() {
		if len(out) == maxHooks {
			return nil, p.fail(p.next(), "hook %d: at most %d hooks are allowed", len(out)+1, maxHooks)
		}
		h, err := p.hook(len(out)+1, out)
		if err != nil {
			return nil, err
		}
		out = append(out, h)
	}
	p.where = ""
	if _, _, err := p.token(); err != nil {
		return nil, err
	}
	if at := int(p.dec.InputOffset()); strings.Trim(p.text[at:], " \t\r\n") != "" {
		rest := strings.TrimLeft(p.text[at:], " \t\r\n")
		return nil, p.fail(len(p.text)-len(rest), "text behind the list: remove it")
	}
	return out, nil
}

// hook reads one object.
func (p *parser) hook(number int, before []Hook) (Hook, error) {
	p.where = fmt.Sprintf("hook %d", number)
	h := Hook{Timeout: p.rules.defaultTimeout()}
	begin, err := p.open('{', "an object with name and exec")
	if err != nil {
		return h, err
	}
	var seen []string
	for p.dec.More() {
		p.where = hookPlace(number, h)
		key, at, err := p.key(seen)
		if err != nil {
			return h, err
		}
		i := slices.IndexFunc(fields(), func(f field) bool { return f.name == key })
		if i < 0 {
			return h, p.fail(at, "field %q is unknown, there are %s", cut(key), fieldNames())
		}
		seen = append(seen, key)
		p.where += ", field " + key
		if err := fields()[i].read(p, &h); err != nil {
			return h, err
		}
	}
	p.where = hookPlace(number, h)
	if _, _, err := p.token(); err != nil {
		return h, err
	}
	for _, need := range []string{"name", "exec"} {
		if !slices.Contains(seen, need) {
			return h, p.fail(begin, "field %s is missing", need)
		}
	}
	if i := slices.IndexFunc(before, func(o Hook) bool { return o.Name == h.Name }); i >= 0 {
		return h, p.fail(begin, "hook %d has that name already", i+1)
	}
	return h, nil
}

func hookPlace(number int, h Hook) string {
	if h.Name == "" {
		return fmt.Sprintf("hook %d", number)
	}
	return fmt.Sprintf("hook %d (%q)", number, h.Name)
}

// key reads an object's next key, which must not be in seen.
func (p *parser) key(seen []string) (string, int, error) {
	key, at, err := p.str()
	if err == nil && slices.Contains(seen, key) {
		err = p.fail(at, "%q stands there twice", cut(key))
	}
	return key, at, err
}

// str reads a string.
func (p *parser) str() (string, int, error) {
	t, at, err := p.token()
	if err != nil {
		return "", at, err
	}
	s, ok := t.(string)
	if !ok {
		return "", at, p.fail(at, "%s is not what has to be here, but a string", kindOf(t))
	}
	raw := p.text[at:p.dec.InputOffset()]
	if strings.ContainsRune(s, utf8.RuneError) && !strings.ContainsRune(raw, utf8.RuneError) && !strings.Contains(strings.ToLower(raw), `\ufffd`) {
		return "", at, p.fail(at, `the string has half of a character (\ud800 to \udfff alone)`)
	}
	if strings.ContainsRune(s, 0) {
		return "", at, p.fail(at, "the string has a NUL character")
	}
	return s, at, nil
}

// strs reads a list of at most limit strings and gives where each begins.
func (p *parser) strs(limit int, what string) (list []string, at []int, err error) {
	begin, err := p.open('[', "a list of strings")
	if err != nil {
		return nil, nil, err
	}
	for p.dec.More() {
		if len(list) == limit {
			return nil, nil, p.fail(p.next(), "at most %d %s are allowed", limit, what)
		}
		s, where, err := p.str()
		if err != nil {
			return nil, nil, err
		}
		list, at = append(list, s), append(at, where)
	}
	if _, _, err := p.token(); err != nil {
		return nil, nil, err
	}
	return list, append(at, begin), nil // the last one is the list's own place
}

// boolean reads true or false.
func (p *parser) boolean() (bool, error) {
	t, at, err := p.token()
	if err != nil {
		return false, err
	}
	b, ok := t.(bool)
	if !ok {
		return false, p.fail(at, "%s is not what has to be here, but true or false", kindOf(t))
	}
	return b, nil
}

// cut bounds a text of the pod's author in a message.
func cut(s string) string {
	const limit = 100
	if len(s) <= limit {
		return s
	}
	return strings.ToValidUTF8(s[:limit], "") + "…"
}
