package slackwatcher

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// window is the length that $window stands for in a query.
const window = "1m"

// Prometheus returns what asks a Prometheus at base for queries of policies, in which
// $node stands for node and $window for a minute. Of several results the worst counts.
func Prometheus(base, node string) (func(ctx context.Context, query string) (float64, bool, error), error) {
	at, err := url.Parse(base)
	if err != nil || at.Scheme != "http" && at.Scheme != "https" || at.Host == "" {
		return nil, fmt.Errorf("%q is no address of a Prometheus such as http://prometheus:9090", base)
	}
	at = at.JoinPath("api/v1/query")
	words := strings.NewReplacer("$node", node, "$window", window)
	web := &http.Client{Timeout: 10 * time.Second}
	return func(ctx context.Context, query string) (float64, bool, error) {
		ask := *at
		ask.RawQuery = url.Values{"query": {words.Replace(query)}}.Encode()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, ask.String(), nil)
		if err != nil {
			return 0, false, err
		}
		answer, err := web.Do(req)
		if err != nil {
			return 0, false, fmt.Errorf("ask Prometheus: %w", err)
		}
		defer answer.Body.Close()
		text, err := io.ReadAll(io.LimitReader(answer.Body, 1<<20))
		if err != nil {
			return 0, false, fmt.Errorf("ask Prometheus: %w", err)
		}
		return parse(text)
	}, nil
}

// parse returns the highest value of an answer of Prometheus; false if it has none.
func parse(text []byte) (worst float64, known bool, err error) {
	var answer struct {
		Status, Error string
		Data          struct {
			ResultType string
			Result     json.RawMessage
		}
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		return 0, false, fmt.Errorf("Prometheus' answer: %w", err)
	}
	if answer.Status != "success" {
		return 0, false, fmt.Errorf("Prometheus refuses the query: %s", answer.Error)
	}
	var values [][]any
	switch answer.Data.ResultType {
	case "vector":
		var vector []struct{ Value []any }
		err = json.Unmarshal(answer.Data.Result, &vector)
		for _, v := range vector {
			values = append(values, v.Value)
		}
	case "scalar":
		values = make([][]any, 1)
		err = json.Unmarshal(answer.Data.Result, &values[0])
	default:
		err = fmt.Errorf("it is a %s; a query yields a number", answer.Data.ResultType)
	}
	if err != nil {
		return 0, false, fmt.Errorf("Prometheus' answer: %w", err)
	}
	for _, pair := range values {
		if len(pair) != 2 {
			return 0, false, errors.New("Prometheus' answer: a value is a time and a number")
		}
		word, _ := pair[1].(string)
		v, err := strconv.ParseFloat(word, 64)
		if err != nil {
			return 0, false, fmt.Errorf("Prometheus' answer: %q is no number", word)
		}
		if !math.IsNaN(v) && !math.IsInf(v, 0) { // a quantile of no requests
			worst, known = max(worst, v), true
		}
	}
	return worst, known, nil
}
