// Command prometheus checks what Prometheus is given: files of rules, and expressions of dashboards.
//
// Each argument is a file of rules. Standard input has one PromQL expression a line. Standard output has one JSON object: the
// alerts of all files with the metrics that they name, and the metrics of the expressions. What cannot be read is an error.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sort"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
)

// alert is a rule that tells somebody.
type alert struct {
	Name        string            `json:"name"`
	Metrics     []string          `json:"metrics"`
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
}

type answer struct {
	Alerts  []alert  `json:"alerts"`
	Metrics []string `json:"metrics"`
}

func main() {
	if err := run(os.Args[1:], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "prometheus:", err)
		os.Exit(1)
	}
}

func run(files []string, input io.Reader, output io.Writer) error {
	reader := parser.NewParser(parser.Options{})
	found := answer{Alerts: []alert{}, Metrics: []string{}}
	for _, file := range files {
		groups, errs := rulefmt.ParseFile(file, false, model.UTF8Validation, reader, slog.New(slog.DiscardHandler))
		if len(errs) > 0 {
			return fmt.Errorf("%s: %w", file, errs[0])
		}
		for _, group := range groups.Groups {
			for _, rule := range group.Rules {
				metrics, err := named(reader, rule.Expr)
				if err != nil {
					return fmt.Errorf("%s: %s: %w", file, rule.Alert, err)
				}
				found.Alerts = append(found.Alerts, alert{rule.Alert, metrics, rule.Labels, rule.Annotations})
			}
		}
	}
	all := map[string]bool{}
	lines := bufio.NewScanner(input)
	for lines.Scan() {
		metrics, err := named(reader, lines.Text())
		if err != nil {
			return fmt.Errorf("%s: %w", lines.Text(), err)
		}
		for _, metric := range metrics {
			all[metric] = true
		}
	}
	for metric := range all {
		found.Metrics = append(found.Metrics, metric)
	}
	sort.Strings(found.Metrics)
	if err := lines.Err(); err != nil {
		return err
	}
	return json.NewEncoder(output).Encode(found)
}

// named returns the metrics that an expression names.
func named(reader parser.Parser, text string) ([]string, error) {
	expression, err := reader.ParseExpr(text)
	if err != nil {
		return nil, err
	}
	metrics := []string{}
	parser.Inspect(expression, func(node parser.Node, _ []parser.Node) error {
		if selector, ok := node.(*parser.VectorSelector); ok {
			metrics = append(metrics, selector.Name)
		}
		return nil
	})
	return metrics, nil
}
