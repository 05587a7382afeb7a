package config

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"tickgate/internal/unit"
)

var (
	durationType = reflect.TypeFor[time.Duration]()
	sizeType     = reflect.TypeFor[unit.Size]()
)

// isScalar reports whether values of t are written as one scalar.
func isScalar(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.String, reflect.Bool, reflect.Int, reflect.Int64:
		return true
	}
	return false
}

// wantType says what a value of type t looks like, for error messages.
func wantType(t reflect.Type) string {
	switch {
	case t == durationType:
		return "a duration with a unit, such as 500ms or 30s"
	case t == sizeType:
		return "a size with a unit, such as 64KiB or 10MB"
	}
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int64:
		return "a whole number"
	case reflect.String:
		return "text"
	case reflect.Slice:
		if isScalar(t.Elem()) {
			return "a list"
		}
		return "a list of mappings"
	}
	return "a mapping"
}

// parseScalar reads text as a value of type t; the error says what is wrong where
// that is more than the wrong type. It serves the file and the tags alike.
func parseScalar(text string, t reflect.Type) (reflect.Value, error) {
	v := reflect.New(t).Elem()
	switch {
	case t == durationType:
		d, err := parseDuration(text)
		v.SetInt(int64(d))
		return v, err
	case t == sizeType:
		n, err := parseSize(text)
		v.SetInt(int64(n))
		return v, err
	}
	switch t.Kind() {
	case reflect.String:
		v.SetString(text)
		return v, nil
	case reflect.Bool:
		switch text {
		case "true", "True", "TRUE":
			v.SetBool(true)
			return v, nil
		case "false", "False", "FALSE":
			return v, nil
		}
	case reflect.Int, reflect.Int64:
		if n, err := strconv.ParseInt(text, 10, 64); err == nil {
			v.SetInt(n)
			return v, nil
		}
	}
	return v, errWrongType
}

// parseDuration is time.ParseDuration, but a number without a unit is told apart,
// since whether 5 means seconds or milliseconds is what people get wrong.
func parseDuration(text string) (time.Duration, error) {
	if text == "0" {
		return 0, nil
	}
	d, err := time.ParseDuration(text)
	if err == nil {
		return d, nil
	}
	if isNumber(text) {
		return 0, fmt.Errorf("durations have units: %ss or %sms?", text, text)
	}
	if n, ok := strings.CutSuffix(text, "d"); ok {
		if days, err := strconv.Atoi(n); err == nil && days > 0 && days < 1e5 {
			return 0, fmt.Errorf("there is no unit for days: %dh?", 24*days)
		}
	}
	return 0, errWrongType
}

// parseSize is unit.ParseSize, but a number without a unit is told apart.
func parseSize(text string) (unit.Size, error) {
	if text != "0" && isNumber(text) {
		return 0, fmt.Errorf("sizes have units: %sB or %sKiB?", text, text)
	}
	n, err := unit.ParseSize(text)
	if err != nil && isNumber(strings.TrimRight(text, "kKmMgGtTiB ")) && strings.Contains(err.Error(), "too large") {
		return 0, fmt.Errorf("the size is too large")
	}
	if err != nil {
		return 0, errWrongType
	}
	return n, nil
}

func isNumber(text string) bool {
	_, err := strconv.ParseFloat(text, 64)
	return err == nil
}

// bounds is what a field's tags demand of one scalar.
type bounds struct {
	min, max string
	enum     []string
}

func boundsOf(tag reflect.StructTag) bounds {
	b := bounds{min: tag.Get("min"), max: tag.Get("max")}
	if e := tag.Get("enum"); e != "" {
		b.enum = strings.Split(e, "|") // with "" among them, the key may also say nothing
	}
	return b
}

// check returns what is wanted instead, or "" if v is within the bounds.
func (b bounds) check(v reflect.Value, text string) string {
	if len(b.enum) > 0 && !slices.Contains(b.enum, text) {
		words := slices.DeleteFunc(slices.Clone(b.enum), func(word string) bool { return word == "" })
		want := "one of " + strings.Join(words, ", ")
		if isNumber(text) {
			return want // 500 is not a mistyped 502
		}
		return want + didYouMean(text, b.enum)
	}
	low, high := b.compare(v, b.min) < 0, b.compare(v, b.max) > 0
	switch {
	case !low && !high:
		return ""
	case b.min != "" && b.max != "":
		return b.min + " to " + b.max
	case low:
		return "at least " + b.min
	}
	return "at most " + b.max
}

// compare orders v and a bound from a tag; without a bound they are equal.
func (b bounds) compare(v reflect.Value, bound string) int {
	if bound == "" {
		return 0
	}
	limit, err := parseScalar(bound, v.Type())
	if err != nil {
		panic(fmt.Sprintf("BUG: bound %q is no %s", bound, v.Type()))
	}
	return cmp.Compare(v.Int(), limit.Int())
}
