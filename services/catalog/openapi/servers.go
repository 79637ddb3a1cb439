package openapi

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/tollway/tollway/pipelines/attribute/operation"
)

// server is one of the places of an API in OpenAPI 3.
type server struct {
	URL       string `yaml:"url"`
	Variables map[string]struct {
		Default *string `yaml:"default"`
	} `yaml:"variables"`
}

// api reads what the document says about the API as a whole.
func (d *document) api() (API, error) {
	api := API{Title: oneLine(d.Info.Title), Version: oneLine(d.Info.Version)}
	if d.Swagger != "" {
		if err := api.add(d.Host, d.BasePath); err != nil {
			return API{}, fmt.Errorf("host and basePath: %w", err)
		}
		return api, nil
	}
	if len(d.Servers) == 0 {
		return api, api.add("", "")
	}
	anywhere := false
	for i, s := range d.Servers {
		host, base, err := s.place()
		if err == nil {
			err = api.add(host, base)
		}
		if err != nil {
			return API{}, fmt.Errorf("servers[%d]: %w", i, err)
		}
		anywhere = anywhere || host == ""
	}
	if anywhere {
		api.Hosts = nil
	}
	return api, nil
}

var port = regexp.MustCompile(`:[0-9]+$`)

func (a *API) add(host, base string) error {
	host = strings.TrimSuffix(strings.ToLower(port.ReplaceAllString(host, "")), ".")
	if base = strings.TrimRight(base, "/"); base == "" {
		base = "/"
	}
	place := operation.Rule{API: "servers", BasePath: base}
	if host != "" {
		place.Hosts = []string{host}
	}
	if _, err := operation.New([]operation.Rule{place}); err != nil {
		return errors.Unwrap(err)
	}
	if host != "" && !slices.Contains(a.Hosts, host) {
		a.Hosts = append(a.Hosts, host)
	}
	if !slices.Contains(a.BasePaths, base) {
		a.BasePaths = append(a.BasePaths, base)
	}
	return nil
}

// addOwn adds the hosts of a path or an operation to those of the API. Its paths
// must be the API's: a template is what follows the API's base path.
func (a *API) addOwn(servers []server) error {
	for i, s := range servers {
		host, base, err := s.place()
		own := API{}
		if err == nil {
			err = own.add(host, base)
		}
		if err == nil && !slices.Contains(a.BasePaths, own.BasePaths[0]) {
			err = fmt.Errorf("url: base path %s is none of the API's (%s): such operations belong into an API of their own",
				own.BasePaths[0], strings.Join(a.BasePaths, ", "))
		}
		if err != nil {
			return fmt.Errorf("servers[%d]: %w", i, err)
		}
		if len(a.Hosts) > 0 && host != "" && !slices.Contains(a.Hosts, own.Hosts[0]) {
			a.Hosts = append(a.Hosts, own.Hosts[0])
		}
	}
	return nil
}

var serverVariable = regexp.MustCompile(`\{[^{}]*\}`)

// place returns the host of a server, which is empty in a relative address, and
// its base path. Variables have their default values.
func (s server) place() (host, base string, err error) {
	address := serverVariable.ReplaceAllStringFunc(s.URL, func(name string) string {
		v, ok := s.Variables[name[1:len(name)-1]]
		if !ok || v.Default == nil {
			err = errors.Join(err, fmt.Errorf("url: variable %s has no default", name))
			return ""
		}
		return *v.Default
	})
	if err != nil {
		return "", "", err
	}
	u, err := url.Parse(address)
	switch {
	case err != nil:
		return "", "", errors.New("url: " + strings.TrimPrefix(err.Error(), "parse "))
	case u.Opaque != "" || (u.Scheme != "") != (u.Host != "") && !strings.HasPrefix(address, "//"):
		return "", "", fmt.Errorf("url: %q is neither scheme://host/path nor /path", address)
	case u.RawQuery != "" || u.Fragment != "":
		return "", "", fmt.Errorf("url: %q has a query or a fragment", address)
	}
	return u.Host, u.EscapedPath(), nil
}
