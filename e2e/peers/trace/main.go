// Reads the files of `aistack trace` with the code that others read them with: the OpenTelemetry Collector's OTLP JSON reader
// (Jaeger's upload uses the same), and Jaeger's own model of its JSON. Prints how many spans each found.
//
//	trace OTLP_FILE JAEGER_FILE
package main

import (
	"encoding/json"
	"fmt"
	"os"

	jaeger "github.com/jaegertracing/jaeger/model/json"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"
)

func main() {
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(otlpFile, jaegerFile string) error {
	parents, err := readOTLP(otlpFile)
	if err != nil {
		return fmt.Errorf("%s: %w", otlpFile, err)
	}
	count, err := readJaeger(jaegerFile, parents)
	if err != nil {
		return fmt.Errorf("%s: %w", jaegerFile, err)
	}
	fmt.Printf("the collector's reader found %d spans, Jaeger's model %d\n", len(parents), count)
	return nil
}

// readOTLP returns the parent of every span.
func readOTLP(file string) (map[string]string, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	traces, err := (&ptrace.JSONUnmarshaler{}).UnmarshalTraces(text)
	if err != nil {
		return nil, err
	}
	parents := map[string]string{}
	trace := pcommon.NewTraceIDEmpty()
	for _, resource := range traces.ResourceSpans().All() {
		if name, found := resource.Resource().Attributes().Get("service.name"); !found || name.Str() == "" {
			return nil, fmt.Errorf("a resource without service.name")
		}
		for _, scope := range resource.ScopeSpans().All() {
			for _, span := range scope.Spans().All() {
				if trace.IsEmpty() {
					trace = span.TraceID()
				}
				if span.TraceID() != trace || span.SpanID().IsEmpty() || span.EndTimestamp() < span.StartTimestamp() {
					return nil, fmt.Errorf("span %s is not one of this trace, or ends before it begins", span.SpanID())
				}
				if span.StartTimestamp() == 0 || span.Name() == "" {
					return nil, fmt.Errorf("span %s has no name or no time", span.SpanID())
				}
				parents[span.SpanID().String()] = span.ParentSpanID().String()
			}
		}
	}
	for span, parent := range parents {
		if _, found := parents[parent]; parent != "" && !found {
			return nil, fmt.Errorf("the parent %s of %s is not there", parent, span)
		}
	}
	return parents, nil
}

// readJaeger checks that the other file tells the same of the same spans, with no field that Jaeger does not know.
func readJaeger(file string, parents map[string]string) (int, error) {
	open, err := os.Open(file)
	if err != nil {
		return 0, err
	}
	defer open.Close()
	var upload struct {
		Data   []jaeger.Trace `json:"data"`
		Total  int            `json:"total"`
		Limit  int            `json:"limit"`
		Offset int            `json:"offset"`
		Errors []any          `json:"errors"`
	}
	decoder := json.NewDecoder(open)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&upload); err != nil {
		return 0, err
	}
	if len(upload.Data) != 1 || len(upload.Data[0].Spans) != len(parents) {
		return 0, fmt.Errorf("it holds %d traces, and not every span", len(upload.Data))
	}
	trace := upload.Data[0]
	for _, span := range trace.Spans {
		if _, found := trace.Processes[span.ProcessID]; !found {
			return 0, fmt.Errorf("span %s of no process", span.SpanID)
		}
		parent := ""
		for _, reference := range span.References {
			if reference.RefType == jaeger.ChildOf {
				parent = string(reference.SpanID)
			}
		}
		if wanted, found := parents[string(span.SpanID)]; !found || wanted != parent {
			return 0, fmt.Errorf("span %s has another parent: %q, not %q", span.SpanID, parent, wanted)
		}
	}
	return len(trace.Spans), nil
}
