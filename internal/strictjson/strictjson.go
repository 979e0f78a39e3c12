// Package strictjson reads the JSON of requests, on every wire that has JSON.
//
// It is strict. These are invalid: unknown, duplicate or differently cased members,
// trailing data, an empty body, nulls, invalid UTF-8, NUL characters, and numbers that
// are not plain integers in range. The sender of an unknown field wanted it to have
// an effect, so to ignore it would do something else than the sender wanted. JSON that
// two readers may understand differently (a name that occurs twice, 1e3,
// 9007199254740993) must not be in a request. One answer lists all errors of the body,
// in plain words and without the names of Go types.
//
// Do not use it for the answers of other services. Those are read tolerantly, so that
// a provider may add fields before its callers know them.
package strictjson

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"roundtrip/internal/problem"
)

// maxPointer and maxDetail are the largest pointer and detail of an error, in bytes.
const (
	maxPointer = 256
	maxDetail  = 200
)

// Unmarshal reads one JSON value into v. If the body is wrong, it returns an invalid
// problem with a pointer to each error.
func Unmarshal(body []byte, v any) error {
	var f problem.Fields
	if !checkText(body, &f) {
		return f.Err()
	}
	for range problem.MaxFields {
		err := json.Unmarshal(body, v, json.RejectUnknownMembers(true))
		var semantic *json.SemanticError
		if err == nil {
			break
		}
		if !errors.As(err, &semantic) {
			return fmt.Errorf("decode a body that passed the text checks: %w", err)
		}
		f.Add(short(semantic.JSONPointer), "%s", inPlainWords(semantic))
		var ok bool
		if body, ok = without(body, semantic); !ok {
			break
		}
	}
	return f.Err()
}

// checkText reads the text token by token. It records what JSON's grammar allows but
// a valid request never contains. It returns false in two cases: if the text is not
// one JSON value, so that it can't be checked further, and if it has recorded the most
// errors that are listed. (To make a pointer for each of 200,000 nulls takes minutes.)
func checkText(body []byte, f *problem.Fields) bool {
	tokens := jsontext.NewDecoder(bytes.NewBuffer(body))
	values := 0
	for found := 0; found < problem.MaxFields; {
		token, err := tokens.ReadToken()
		var syntactic *jsontext.SyntacticError
		switch {
		case errors.Is(err, io.EOF) && values == 1:
			return true
		case errors.Is(err, io.EOF):
			f.Add("", "the body is empty")
			return false
		case errors.As(err, &syntactic) && errors.Is(err, io.ErrUnexpectedEOF):
			f.Add(short(syntactic.JSONPointer), "the body ends too early")
			return false
		case errors.As(err, &syntactic):
			f.Add(short(syntactic.JSONPointer), "%s", cut(syntactic.Err.Error(), maxDetail))
			return false
		case values == 1:
			f.Add("", "there is data after the end of the body")
			return false
		}
		switch {
		case token.Kind() == 'n':
			f.Add(short(tokens.StackPointer()), "must not be null; leave it out")
			found++
		case token.Kind() == '"' && strings.ContainsRune(token.String(), 0):
			f.Add(short(tokens.StackPointer()), "must not contain NUL")
			found++
		}
		if tokens.StackDepth() == 0 {
			values++
		}
	}
	return false
}

// short shortens a pointer for an answer, because the caller may have chosen long
// names. A pointer that is too long becomes the pointer of a parent.
func short(p jsontext.Pointer) string {
	for len(p) > maxPointer {
		p = p.Parent()
	}
	return string(p)
}

// cut shortens a text to at most n bytes, without splitting a character.
func cut(text string, n int) string {
	if len(text) <= n {
		return text
	}
	return strings.ToValidUTF8(text[:n], "")
}

// inPlainWords says what is wrong with a value without naming Go types.
func inPlainWords(e *json.SemanticError) string {
	if errors.Is(e, json.ErrUnknownName) {
		return "there is no such field"
	}
	kind := reflect.Invalid
	if e.GoType != nil {
		if kind = e.GoType.Kind(); kind == reflect.Pointer {
			kind = e.GoType.Elem().Kind()
		}
	}
	switch kind {
	case reflect.Int64:
		if errors.Is(e, strconv.ErrRange) {
			return "the number is out of range"
		}
		return "must be an integer, written with digits only"
	case reflect.String:
		return "must be a string"
	case reflect.Slice:
		return "must be an array"
	case reflect.Struct, reflect.Map:
		return "must be an object"
	}
	return "has the wrong type"
}

// without returns the body without the error e, so that the next error can be found.
// It removes a member with an unknown name. It replaces a wrong value with null, which
// fits everywhere. It returns false if nothing is left to check. The rest of the text
// stays unchanged, because decoding and encoding it again would change its numbers.
func without(body []byte, e *json.SemanticError) ([]byte, bool) {
	if e.JSONPointer == "" {
		return nil, false
	}
	tokens := jsontext.NewDecoder(bytes.NewBuffer(body))
	var member int64 // where the member begins, with the comma before it and its name
	first := true
	for want := range e.JSONPointer.Tokens() {
		container, err := tokens.ReadToken()
		if err != nil {
			return nil, false
		}
		inObject := container.Kind() == jsontext.BeginObject.Kind()
		for i := 0; ; i++ {
			if kind := tokens.PeekKind(); kind != '"' && inObject || kind == jsontext.EndArray.Kind() {
				return nil, false
			}
			member, first = tokens.InputOffset(), i == 0
			name := strconv.Itoa(i)
			if inObject {
				token, err := tokens.ReadToken()
				if err != nil {
					return nil, false
				}
				name = token.String()
			}
			if name == want {
				break
			}
			if tokens.SkipValue() != nil {
				return nil, false
			}
		}
	}
	value, err := tokens.ReadValue()
	if err != nil {
		return nil, false
	}
	end := tokens.InputOffset()
	if !errors.Is(e, json.ErrUnknownName) {
		return slices.Concat(body[:end-int64(len(value))], []byte("null"), body[end:]), true
	}
	after := body[end:]
	if first {
		after = bytes.TrimPrefix(bytes.TrimLeft(after, " \t\r\n"), []byte(","))
	}
	return slices.Concat(body[:member], after), true
}
