// Render prints what a chart comes to, as the package manager for Kubernetes would: for tests where it is not installed.
//
// It knows what the chart beside it uses: values with overrides, the objects Values, Chart and Release, the
// functions include, tpl, toYaml, toJson, required and fail, and those of sprig. It knows no subcharts, hooks,
// capabilities or lookups. It needs Debian's golang-go, golang-github-masterminds-sprig-dev and
// golang-gopkg-yaml.v3-dev, and is built without modules: GO111MODULE=off GOPATH=/usr/share/gocode.
//
// Usage: render CHART RELEASE NAMESPACE [VALUES.yaml...]
package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"text/template"

	"github.com/Masterminds/sprig"
	"gopkg.in/yaml.v3"
)

// Levels of include: a template that includes itself must not run for ever.
const includeDepthMax = 100

type values = map[string]interface{}

func main() {
	if len(os.Args) < 4 {
		fmt.Fprintln(os.Stderr, "usage: render CHART RELEASE NAMESPACE [VALUES.yaml...]")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2], os.Args[3], os.Args[4:]); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(chart, release, namespace string, overrides []string) error {
	all, err := readYaml(filepath.Join(chart, "values.yaml"))
	if err != nil {
		return err
	}
	for _, file := range overrides {
		more, err := readYaml(file)
		if err != nil {
			return err
		}
		merge(all, more)
	}
	described, err := readYaml(filepath.Join(chart, "Chart.yaml"))
	if err != nil {
		return err
	}
	about := values{}
	for key, value := range described {
		about[strings.ToUpper(key[:1])+key[1:]] = value
	}
	root := values{
		"Values":  all,
		"Chart":   about,
		"Release": values{"Name": release, "Namespace": namespace, "Service": "Helm"},
	}
	templates, names, err := parse(chart)
	if err != nil {
		return err
	}
	for _, name := range names {
		var out bytes.Buffer
		if err := templates.ExecuteTemplate(&out, name, root); err != nil {
			return err
		}
		// A missing value would print so; the package manager takes it for nothing, and so hides a typing error.
		if strings.Contains(out.String(), "<no value>") {
			return fmt.Errorf("%s uses a value that there is not", name)
		}
		if text := strings.TrimSpace(out.String()); text != "" && strings.HasSuffix(name, ".yaml") {
			fmt.Printf("---\n%s\n", text)
		}
	}
	return nil
}

func parse(chart string) (*template.Template, []string, error) {
	files, err := filepath.Glob(filepath.Join(chart, "templates", "*"))
	if err != nil || len(files) == 0 {
		return nil, nil, fmt.Errorf("no templates in %s: %v", chart, err)
	}
	sort.Strings(files)
	templates := template.New("chart")
	depth := 0
	functions := sprig.TxtFuncMap()
	// Nothing of the machine may get into a chart.
	delete(functions, "env")
	delete(functions, "expandenv")
	functions["include"] = func(name string, data interface{}) (string, error) {
		depth++
		defer func() { depth-- }()
		if depth > includeDepthMax {
			return "", errors.New("includes are nested too deep at " + name)
		}
		var out strings.Builder
		err := templates.ExecuteTemplate(&out, name, data)
		return out.String(), err
	}
	functions["tpl"] = func(text string, data interface{}) (string, error) {
		inner, err := template.Must(templates.Clone()).New("tpl").Parse(text)
		if err != nil {
			return "", err
		}
		var out strings.Builder
		err = inner.Execute(&out, data)
		return out.String(), err
	}
	functions["toYaml"] = func(value interface{}) (string, error) {
		var out bytes.Buffer
		encoder := yaml.NewEncoder(&out)
		encoder.SetIndent(2)
		err := encoder.Encode(value)
		return strings.TrimSuffix(out.String(), "\n"), err
	}
	functions["required"] = func(message string, value interface{}) (interface{}, error) {
		if value == nil || value == "" {
			return nil, errors.New(message)
		}
		return value, nil
	}
	templates.Funcs(functions)
	var names []string
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, nil, err
		}
		name := filepath.Join(filepath.Base(chart), "templates", filepath.Base(file))
		if _, err := templates.New(name).Parse(string(text)); err != nil {
			return nil, nil, err
		}
		if !strings.HasPrefix(filepath.Base(file), "_") {
			names = append(names, name)
		}
	}
	return templates, names, nil
}

func readYaml(file string) (values, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	read := values{}
	if err := yaml.Unmarshal(text, &read); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return read, nil
}

// Objects are merged, all else is replaced.
func merge(into, from values) {
	for key, value := range from {
		inner, isObject := value.(values)
		present, wasObject := into[key].(values)
		if isObject && wasObject {
			merge(present, inner)
		} else {
			into[key] = value
		}
	}
}
