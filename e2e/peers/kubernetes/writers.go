package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	kube "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
)

// selector finds the drill's own objects.
const selector = "drill=yes"

// work writes and reads, and counts what came back.
type work struct {
	client   dynamic.Interface
	with     settings
	lock     sync.Mutex
	requests int
	errors   map[string]int
	samples  []string
	longest  time.Duration
	faults   []string
}

func (w *work) fault(format string, values ...any) {
	w.lock.Lock()
	defer w.lock.Unlock()
	w.faults = append(w.faults, fmt.Sprintf(format, values...))
}

// until asks until it is answered well. A request whose answer was lost may have been done: `done` tells which refusals say so.
func (w *work) until(ctx context.Context, ask func(context.Context) error, done func(error) bool) error {
	unsure := false
	for deadline := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		begun := time.Now()
		within, cancel := context.WithTimeout(ctx, time.Minute)
		err := ask(within)
		cancel()
		w.lock.Lock()
		w.requests++
		w.longest = max(w.longest, time.Since(begun))
		if err != nil && !(unsure && done(err)) {
			class := class(err)
			if w.errors[class]++; w.errors[class] <= 3 {
				w.samples = append(w.samples, class+": "+err.Error())
			}
		}
		w.lock.Unlock()
		if err == nil || (unsure && done(err)) {
			return nil
		}
		if final(err) || time.Now().After(deadline) {
			return err
		}
		unsure = true
	}
}

// final tells the refusals that asking again will not change. A Service whose address could not be stored is called invalid, too.
func final(err error) bool {
	invalid := kube.IsInvalid(err) && !strings.Contains(err.Error(), "failed to allocate IP")
	return invalid || kube.IsNotFound(err) || kube.IsAlreadyExists(err)
}

// class is the status code of an answer, or that there was none.
func class(err error) string {
	var status kube.APIStatus
	if errors.As(err, &status) && status.Status().Code != 0 {
		return strconv.Itoa(int(status.Status().Code)) + " " + string(status.Status().Reason)
	}
	return "no answer"
}

// each does something for every object of every kind, kinds in turn.
func (w *work) each(do func(kind, string) error) error {
	type task struct {
		kind kind
		name string
	}
	tasks := make(chan task)
	failed := make(chan error, w.with.writers)
	var group sync.WaitGroup
	for range w.with.writers {
		group.Go(func() {
			for task := range tasks {
				if err := do(task.kind, task.name); err != nil {
					select {
					case failed <- fmt.Errorf("%s %s: %w", task.kind.name, task.name, err):
					default:
					}
				}
			}
		})
	}
	for i := range w.with.objects {
		for _, kind := range kinds {
			tasks <- task{kind, fmt.Sprintf("drill-%04d", i)}
		}
	}
	close(tasks)
	group.Wait()
	select {
	case err := <-failed:
		return err
	default:
		return nil
	}
}

func (w *work) round(ctx context.Context, round int) error {
	create := func(kind kind, name string) error {
		return w.until(ctx, func(ctx context.Context) error {
			_, err := w.client.Resource(kind.GroupVersionResource).Namespace("default").Create(ctx, kind.make(name), meta.CreateOptions{})
			return err
		}, kube.IsAlreadyExists)
	}
	change := func(kind kind, name string) error {
		patch := fmt.Appendf(nil, `{"metadata":{"annotations":{"round":"%d"}}}`, round)
		return w.until(ctx, func(ctx context.Context) error {
			_, err := w.client.Resource(kind.GroupVersionResource).Namespace("default").
				Patch(ctx, name, types.MergePatchType, patch, meta.PatchOptions{})
			return err
		}, func(error) bool { return false })
	}
	remove := func(kind kind, name string) error {
		now := int64(0)
		return w.until(ctx, func(ctx context.Context) error {
			return w.client.Resource(kind.GroupVersionResource).Namespace("default").
				Delete(ctx, name, meta.DeleteOptions{GracePeriodSeconds: &now})
		}, kube.IsNotFound)
	}
	for _, step := range []struct {
		do    func(kind, string) error
		leave int
	}{{create, w.with.objects}, {change, w.with.objects}, {remove, 0}} {
		if err := w.each(step.do); err != nil {
			return err
		}
		for _, kind := range kinds {
			if err := w.list(ctx, kind, step.leave); err != nil {
				return err
			}
		}
	}
	return nil
}

// list reads all objects of a kind in pages, past the API server's cache, and holds them to what was acknowledged.
func (w *work) list(ctx context.Context, kind kind, want int) error {
	seen := map[string]int{}
	next := ""
	for {
		err := w.until(ctx, func(ctx context.Context) error {
			page, err := w.client.Resource(kind.GroupVersionResource).Namespace("default").
				List(ctx, meta.ListOptions{LabelSelector: selector, Limit: 50, Continue: next})
			if err != nil {
				return err
			}
			for _, item := range page.Items {
				seen[item.GetName()]++
			}
			next = page.GetContinue()
			return nil
		}, func(error) bool { return false })
		if err != nil {
			return fmt.Errorf("list %s: %w", kind.Resource, err)
		}
		if next == "" {
			break
		}
	}
	if len(seen) != want {
		w.fault("%s: a list has %d objects, %d were acknowledged", kind.Resource, len(seen), want)
	}
	for name, times := range seen {
		if times != 1 {
			w.fault("%s: a list has %s %d times", kind.Resource, name, times)
		}
	}
	return nil
}
