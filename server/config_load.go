package server

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/pelletier/go-toml/v2"
)

// DefaultConfigFile is read where no other is named; it may be absent.
const DefaultConfigFile = "/etc/cri-pouch/config.toml"

// maxConfigSize bounds one file, in bytes.
const maxConfigSize = 1 << 20

// Override is a setting that a flag gives.
type Override struct {
	Path   string // key
	Flag   string // name of the flag, for messages
	Values []string
}

// Load reads file, then the *.toml of the folder config.d beside it in lexical order, then the overrides: the later wins,
// key by key. An empty file means DefaultConfigFile, which may be absent; a named one must exist. The error
// (errdefs.ErrInvalidArgument, or what the file system says) has one line for each mistake, with file and line.
func Load(file string, overrides ...Override) (Config, error) {
	c := Default()
	files, err := configFiles(file)
	if err != nil {
		return c, err
	}
	origin := map[string]string{}
	var mistakes []error
	for _, f := range files {
		doc, err := readBounded(f)
		if err != nil {
			return c, fmt.Errorf("read configuration: %w", err)
		}
		mistakes = append(mistakes, c.merge(f, doc, origin)...)
	}
	for _, o := range overrides {
		origin[o.Path] = "--" + o.Flag
		if err := c.set(o); err != nil {
			mistakes = append(mistakes, err)
		}
	}
	// A file that cannot be read leaves values out, which checks would then complain of.
	if len(mistakes) == 0 {
		mistakes = c.check(origin)
	}
	return c, errors.Join(mistakes...)
}

// configFiles gives what to read, in order.
func configFiles(file string) ([]string, error) {
	named := file != ""
	if !named {
		file = DefaultConfigFile
	}
	var files []string
	_, err := os.Stat(file)
	switch {
	case err == nil:
		files = append(files, file)
	case named || !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("read configuration: %w (`cri-pouch config default` writes one)", err)
	}
	entries, err := os.ReadDir(filepath.Join(filepath.Dir(file), "config.d"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read configuration folder: %w", err)
	}
	for _, e := range entries { // sorted by name
		if strings.HasSuffix(e.Name(), ".toml") && !strings.HasPrefix(e.Name(), ".") {
			files = append(files, filepath.Join(filepath.Dir(file), "config.d", e.Name()))
		}
	}
	return files, nil
}

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	doc, err := io.ReadAll(io.LimitReader(f, maxConfigSize+1))
	if err == nil && len(doc) > maxConfigSize {
		err = fmt.Errorf("%s is larger than %d bytes: %w", path, maxConfigSize, errdefs.ErrInvalidArgument)
	}
	return doc, err
}

// merge puts the keys of one file over c and notes in origin where each stands. Mistakes come back as file:line: what.
func (c *Config) merge(file string, doc []byte, origin map[string]string) (mistakes []error) {
	keys, err := scanKeys(doc)
	if err != nil {
		return []error{at(file, err)}
	}
	for _, k := range keys {
		place := fmt.Sprintf("%s:%d", file, k.line)
		if err := k.fits(); err != nil {
			mistakes = append(mistakes, invalid(place, err))
			continue
		}
		origin[k.path] = place
	}
	if mistakes != nil {
		return mistakes
	}
	// The scan has found no mistake of its own; a duplicate key or a bad duration is still possible.
	if err := toml.Unmarshal(doc, c); err != nil {
		return []error{at(file, err)}
	}
	return nil
}

// check validates all values; origin says whom to blame.
func (c *Config) check(origin map[string]string) (mistakes []error) {
	for _, k := range Keys() {
		err := k.check(*c)
		if err == nil {
			continue
		}
		place := origin[k.Path]
		if place == "" {
			place = "configuration"
		}
		mistakes = append(mistakes, invalid(place, fmt.Errorf("%s: %w", k.Path, err)))
	}
	return mistakes
}

// at adds file and line to an error of the parser.
func at(file string, err error) error {
	if d, ok := errors.AsType[*toml.DecodeError](err); ok {
		line, _ := d.Position()
		return invalid(fmt.Sprintf("%s:%d", file, line), errors.New(strings.TrimPrefix(d.Error(), "toml: ")))
	}
	return invalid(file, err)
}

func invalid(place string, err error) error {
	return &mistake{place: place, err: err}
}

// mistake is one line about one place of the configuration; its class is errdefs.ErrInvalidArgument.
type mistake struct {
	place string
	err   error
}

func (m *mistake) Error() string { return m.place + ": " + m.err.Error() }

func (m *mistake) Unwrap() []error { return []error{m.err, errdefs.ErrInvalidArgument} }

// set applies an override; its values are parsed by the type of the key.
func (c *Config) set(o Override) error {
	v, ok := c.field(o.Path)
	if !ok {
		return fmt.Errorf("flag --%s sets the unknown key %s: %w", o.Flag, o.Path, errdefs.ErrInternal)
	}
	last := ""
	if len(o.Values) > 0 {
		last = o.Values[len(o.Values)-1]
	}
	var err error
	switch p := v.Addr().Interface().(type) {
	case *string:
		*p = last
	case *[]string:
		*p = slices.Clone(o.Values)
	case *int:
		*p, err = strconv.Atoi(last)
	case *bool:
		*p, err = strconv.ParseBool(last)
	case *Duration:
		err = p.UnmarshalText([]byte(last))
	case *Size:
		err = p.UnmarshalText([]byte(last))
	default:
		err = fmt.Errorf("type %s has no flag", v.Type())
	}
	if err != nil {
		return invalid("--"+o.Flag, err)
	}
	return nil
}

// field finds a key's value in c.
func (c *Config) field(path string) (reflect.Value, bool) {
	v := reflect.ValueOf(c).Elem()
	for part := range strings.SplitSeq(path, ".") {
		if v.Kind() != reflect.Struct {
			return reflect.Value{}, false
		}
		i := slices.IndexFunc(reflect.VisibleFields(v.Type()), func(f reflect.StructField) bool { return f.Tag.Get("toml") == part })
		if i < 0 {
			return reflect.Value{}, false
		}
		v = v.Field(i)
	}
	return v, true
}

// oneLine joins the lines of an error of Load.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }
