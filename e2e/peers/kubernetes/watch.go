package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
)

// event is what a watch showed of one of the drill's objects.
type event struct {
	what     watch.EventType
	name     string
	revision uint64
}

// watched is the watch of one kind, which begins again where it broke off.
type watched struct {
	kind     kind
	lock     sync.Mutex
	events   []event
	restarts int
	expired  int
	last     time.Time
}

func begin(ctx context.Context, client dynamic.Interface, kind kind) (*watched, error) {
	list, err := client.Resource(kind.GroupVersionResource).Namespace("default").List(ctx, meta.ListOptions{Limit: 1})
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", kind.Resource, err)
	}
	watched := &watched{kind: kind, last: time.Now()}
	go watched.follow(ctx, client, list.GetResourceVersion())
	return watched, nil
}

func (w *watched) follow(ctx context.Context, client dynamic.Interface, from string) {
	for begun := 0; ctx.Err() == nil; begun++ {
		if begun > 0 {
			w.lock.Lock()
			w.restarts++
			w.lock.Unlock()
			time.Sleep(50 * time.Millisecond)
		}
		stream, err := client.Resource(w.kind.GroupVersionResource).Namespace("default").
			Watch(ctx, meta.ListOptions{ResourceVersion: from, LabelSelector: selector})
		if err != nil {
			continue
		}
		for shown := range stream.ResultChan() {
			object, ok := shown.Object.(*unstructured.Unstructured)
			if shown.Type == watch.Error || !ok {
				w.failed(shown)
				break
			}
			from = object.GetResourceVersion()
			revision, _ := strconv.ParseUint(from, 10, 64)
			w.lock.Lock()
			w.events = append(w.events, event{shown.Type, object.GetName(), revision})
			w.last = time.Now()
			w.lock.Unlock()
		}
		stream.Stop()
	}
}

func (w *watched) failed(shown watch.Event) {
	w.lock.Lock()
	defer w.lock.Unlock()
	if status, ok := shown.Object.(*meta.Status); ok && status.Code == 410 {
		w.expired++
	}
}

func (w *watched) count() int {
	w.lock.Lock()
	defer w.lock.Unlock()
	return len(w.events)
}

// deletions counts the objects that were seen to go.
func (w *watched) deletions() int {
	w.lock.Lock()
	defer w.lock.Unlock()
	gone := 0
	for _, event := range w.events {
		if event.what == watch.Deleted {
			gone++
		}
	}
	return gone
}

// judge waits for the last events and holds the watch to its promises.
func (w *watched) judge(with settings) []string {
	for deadline := time.Now().Add(patience); w.deletions() < with.objects*with.rounds && time.Now().Before(deadline); {
		time.Sleep(50 * time.Millisecond)
	}
	w.lock.Lock()
	defer w.lock.Unlock()
	var faults []string
	fault := func(format string, values ...any) {
		faults = append(faults, w.kind.Resource+": "+fmt.Sprintf(format, values...))
	}
	lives := map[string]string{}
	var last uint64
	for _, event := range w.events {
		if event.revision <= last {
			fault("%s of %s at %d after %d", event.what, event.name, event.revision, last)
		}
		last = event.revision
		letter := map[watch.EventType]string{watch.Added: "A", watch.Modified: "M", watch.Deleted: "D"}[event.what]
		lives[event.name] += letter
	}
	if len(lives) != with.objects {
		fault("%d objects were seen, %d were made", len(lives), with.objects)
	}
	for name, life := range lives {
		// Each round an object is added, changed at least once, and deleted.
		turns := strings.Split(strings.TrimSuffix(life, "D"), "D")
		sound := len(turns) == with.rounds && strings.HasSuffix(life, "D")
		for _, turn := range turns {
			sound = sound && len(turn) > 1 && turn[0] == 'A' && strings.Trim(turn[1:], "M") == ""
		}
		if !sound {
			fault("the life of %s was %s", name, life)
		}
	}
	return faults
}
