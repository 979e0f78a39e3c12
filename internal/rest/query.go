package rest

import (
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/labstack/echo/v4"

	"roundtrip/internal/problem"
)

// maxParameter is the most bytes of a parameter's name in an error.
const maxParameter = 256

// Pages of a list.
const (
	defaultLimit = 50
	maxLimit     = 200
)

// Query reads the query's parameters. Those that are not allowed are invalid,
// and so is one that occurs twice, unless it is among the repeatable ones.
func Query(c echo.Context, allowed []string, repeatable ...string) (url.Values, error) {
	var f problem.Fields
	query, err := url.ParseQuery(c.Request().URL.RawQuery)
	if err != nil {
		f.Add("query:", "can't be read")
		return nil, f.Err()
	}
	for _, name := range slices.Sorted(maps.Keys(query)) {
		switch repeats := slices.Contains(repeatable, name); {
		case !repeats && !slices.Contains(allowed, name):
			f.Add("query:"+name[:min(len(name), maxParameter)], "there is no such parameter")
		case !repeats && len(query[name]) > 1:
			f.Add("query:"+name, "may be given once")
		case slices.ContainsFunc(query[name], isNoText):
			f.Add("query:"+name, "must be UTF-8 without NUL")
		}
	}
	return query, f.Err()
}

func isNoText(s string) bool { return !utf8.ValidString(s) || strings.ContainsRune(s, 0) }

// PageOf reads a list's cursor and limit.
func PageOf(query url.Values) (cursor string, limit int, err error) {
	cursor, limit = query.Get("cursor"), defaultLimit
	if query.Has("limit") {
		given, err := strconv.ParseUint(query.Get("limit"), 10, 16)
		if err != nil || given < 1 || given > maxLimit {
			var f problem.Fields
			f.Add("query:limit", "must be between 1 and %d", maxLimit)
			return "", 0, f.Err()
		}
		limit = int(given)
	}
	return cursor, limit, nil
}

// Optional is a parameter that is given once; nil when it is not given.
func Optional(query url.Values, name string) *string {
	if !query.Has(name) {
		return nil
	}
	value := query.Get(name)
	return &value
}

// Repeated says of an invalid problem with a list, such as /skus and /skus/3, that
// the list is a parameter which is given once for each of its items.
func Repeated(err error, list, parameter string) error {
	return problem.Relocate(err, func(pointer string) string {
		if pointer == "/"+list || strings.HasPrefix(pointer, "/"+list+"/") {
			return "query:" + parameter
		}
		return pointer
	})
}
