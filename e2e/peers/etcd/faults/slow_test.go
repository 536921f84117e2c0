package faults

import (
	"bytes"
	"io"
	"net/http"
	"testing"
	"time"

	"aistack/e2e/peers/etcd/peers"
)

// A client sends half of a Put, and stops: as many such calls as the server takes at a time end by themselves, and others
// are served again.
func TestACallThatStopsInItsMiddleGivesItsPlaceBack(t *testing.T) {
	const most = 3
	server := peers.Tinykv(t, "--set", "server.limits.body_timeout_ms=500", "--set", "server.limits.max_concurrent_requests=3")
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	client := &http.Client{Transport: &http.Transport{Protocols: &protocols}, Timeout: peers.Patience}
	ended := make(chan error, most)
	for range most {
		half, sends := io.Pipe()
		go func() {
			// Five bytes announce a message of a hundred, of which one comes.
			_, _ = io.Copy(sends, bytes.NewReader([]byte{0, 0, 0, 0, 100, 10}))
		}()
		t.Cleanup(func() { sends.Close() })
		go func() {
			request, err := http.NewRequest("POST", server.Endpoint+"/etcdserverpb.KV/Put", half)
			if err != nil {
				ended <- err
				return
			}
			request.Header.Set("Content-Type", "application/grpc")
			request.Header.Set("TE", "trailers")
			answer, err := client.Do(request)
			if err == nil {
				_, err = io.Copy(io.Discard, answer.Body)
				answer.Body.Close()
			}
			ended <- err
		}()
	}
	deadline := time.After(peers.Patience)
	for range most {
		select {
		case err := <-ended:
			if err != nil {
				t.Fatalf("it got no answer: %v", err)
			}
		case <-deadline:
			t.Fatal("a call that stopped in its middle goes on")
		}
	}
	if _, err := put(server, "key", "value"); err != nil {
		t.Fatal(err)
	}
}
