// Command health says what GitOps tools make of a resource: kstatus, which Flux judges by, and Argo CD.
//
// Its argument is the Lua health check that Argo CD is to be given. It reads one Kubernetes object in JSON a line and
// writes one JSON object a line, in the same order. Output is flushed when no input is waiting, so that one process
// answers any number of batches.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	lua "github.com/yuin/gopher-lua"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// luaDeadline is what Argo CD gives a health check.
const luaDeadline = time.Second

// verdict is a status in the words of one tool, or why it has none.
type verdict struct {
	Status  string `json:"status"`
	Message string `json:"message"`
}

// answer is one line of output.
type answer struct {
	Kstatus verdict `json:"kstatus"`
	Argo    verdict `json:"argo"`
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: health HEALTH.LUA")
		os.Exit(2)
	}
	script, err := os.ReadFile(os.Args[1])
	if err == nil {
		err = serve(os.Stdin, os.Stdout, string(script))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "health:", err)
		os.Exit(1)
	}
}

func serve(input io.Reader, output io.Writer, script string) error {
	reader := bufio.NewReaderSize(input, 1<<20)
	writer := bufio.NewWriterSize(output, 1<<20)
	encoder := json.NewEncoder(writer)
	for {
		line, err := reader.ReadBytes('\n')
		if errors.Is(err, io.EOF) && len(line) == 0 {
			return writer.Flush()
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		// As clients read it: whole numbers are int64.
		object := &unstructured.Unstructured{}
		if err := object.UnmarshalJSON(line); err != nil {
			return fmt.Errorf("input is not an object of Kubernetes: %w", err)
		}
		if err := encoder.Encode(answer{Kstatus: kstatus(object), Argo: argo(object, script)}); err != nil {
			return err
		}
		if reader.Buffered() == 0 {
			if err := writer.Flush(); err != nil {
				return err
			}
		}
	}
}

func kstatus(object *unstructured.Unstructured) verdict {
	result, err := status.Compute(object)
	if err != nil {
		return verdict{Status: status.UnknownStatus.String(), Message: err.Error()}
	}
	return verdict{Status: result.Status.String(), Message: result.Message}
}

// argo judges as Argo CD does: what is being deleted is not shown to the script.
func argo(object *unstructured.Unstructured, script string) verdict {
	if object.GetDeletionTimestamp() != nil {
		return verdict{Status: "Progressing", Message: "Pending deletion"}
	}
	found, err := run(object, script)
	if err != nil {
		return verdict{Status: "Unknown", Message: err.Error()}
	}
	return found
}

// run gives the script what it has in Argo CD, which opens neither the string nor the math library: `obj`, and a second.
func run(object *unstructured.Unstructured, script string) (verdict, error) {
	state := lua.NewState(lua.Options{SkipOpenLibs: true})
	defer state.Close()
	for name, open := range map[string]lua.LGFunction{
		lua.BaseLibName: lua.OpenBase,
		lua.TabLibName:  lua.OpenTable,
	} {
		call := lua.P{Fn: state.NewFunction(open), Protect: true}
		if err := state.CallByParam(call, lua.LString(name)); err != nil {
			return verdict{}, err
		}
	}
	deadline, cancel := context.WithTimeout(context.Background(), luaDeadline)
	defer cancel()
	state.SetContext(deadline)
	state.SetGlobal("obj", value(state, object.Object))
	if err := state.DoString(script); err != nil {
		return verdict{}, err
	}
	table, ok := state.Get(-1).(*lua.LTable)
	if !ok {
		return verdict{}, fmt.Errorf("the script returns a %s and not a table", state.Get(-1).Type())
	}
	found := verdict{Status: text(table, "status"), Message: text(table, "message")}
	switch found.Status {
	case "Healthy", "Progressing", "Degraded", "Suspended", "Missing", "Unknown":
		return found, nil
	default:
		return verdict{}, fmt.Errorf("the script returns the status %q, which Argo CD does not know", found.Status)
	}
}

func text(table *lua.LTable, key string) string {
	if field, ok := table.RawGetString(key).(lua.LString); ok {
		return string(field)
	}
	return ""
}

func value(state *lua.LState, from any) lua.LValue {
	switch from := from.(type) {
	case bool:
		return lua.LBool(from)
	case int64:
		return lua.LNumber(from)
	case float64:
		return lua.LNumber(from)
	case string:
		return lua.LString(from)
	case []any:
		list := state.CreateTable(len(from), 0)
		for _, item := range from {
			list.Append(value(state, item))
		}
		return list
	case map[string]any:
		table := state.CreateTable(0, len(from))
		for key, item := range from {
			table.RawSetString(key, value(state, item))
		}
		return table
	default:
		return lua.LNil
	}
}
