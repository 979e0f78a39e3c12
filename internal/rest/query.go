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

// maxParameter is the largest part, in bytes, of a parameter's name in an error.
const maxParameter = 256

// The number of items on a page of a list.
const (
	defaultLimit = 50
	maxLimit     = 200
)

// Query reads the query's parameters. A parameter is invalid if it is neither allowed
// nor repeatable, or if it occurs twice and is not repeatable.
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
			f.Add("query:"+name, "must be given only once")
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

// Optional returns a parameter that may be given once; nil if it is not given.
func Optional(query url.Values, name string) *string {
	if !query.Has(name) {
		return nil
	}
	value := query.Get(name)
	return &value
}

// Repeated changes the pointers of an invalid problem from a list, such as /skus and
// /skus/3, to the query parameter that is given once for each item of the list.
func Repeated(err error, list, parameter string) error {
	return problem.Relocate(err, func(pointer string) string {
		if pointer == "/"+list || strings.HasPrefix(pointer, "/"+list+"/") {
			return "query:" + parameter
		}
		return pointer
	})
}
