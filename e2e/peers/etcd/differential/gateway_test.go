package differential

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"sort"
	"strings"
	"testing"
	"time"

	"aistack/e2e/peers/etcd/peers"
)

var plainHTTP = &http.Client{Timeout: 5 * time.Minute}

func b64(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }

// post answers the status and the body without what differs by nature.
func post(t *testing.T, server *peers.Server, path, token, body string, lines int) string {
	request, err := http.NewRequest(http.MethodPost, server.Endpoint+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		request.Header.Set("Authorization", token)
	}
	response, err := plainHTTP.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	told := []string{fmt.Sprintf("%d %s", response.StatusCode, response.Header.Get("Content-Type"))}
	scanner := bufio.NewScanner(response.Body)
	for (lines == 0 || len(told) <= lines) && scanner.Scan() {
		var tree any
		if err := json.Unmarshal(scanner.Bytes(), &tree); err != nil {
			told = append(told, scanner.Text())
			continue
		}
		scrub(tree, byNature...)
		text, _ := json.Marshal(tree)
		told = append(told, string(text))
	}
	return strings.Join(told, "\n")
}

// byNature are the fields of the gateway's answers that differ by nature.
var byNature = []string{"cluster_id", "member_id", "raft_term", "token", "dbSize", "dbSizeInUse", "raftIndex",
	"raftAppliedIndex", "raftTerm", "leader", "storageVersion", "ID", "clientURLs", "peerURLs", "hash", "dbSizeQuota", "downgradeInfo"}

func TestTheGatewayAnswersAsEtcds(t *testing.T) {
	sides := []*peers.Server{peers.Etcd(t, "--bcrypt-cost=4"), peers.Tinykv(t, "--bcrypt-cost=4")}
	foo, end := b64("foo"), b64("fop")
	table := []struct {
		path, body string
		lines      int
	}{
		{"/v3/kv/put", `{"key": "` + foo + `", "value": "` + b64("bar") + `"}`, 0},
		{"/v3/kv/put", `{"key": "` + foo + `", "value": "` + b64("baz") + `", "prev_kv": true}`, 0},
		{"/v3/kv/put", `{"key": "` + b64("foo2") + `", "value": "` + b64("x") + `", "unknown": 1}`, 0},
		{"/v3/kv/range", `{"key": "` + foo + `"}`, 0},
		{"/v3/kv/range", `{"key": "` + foo + `", "range_end": "` + end + `", "limit": "1"}`, 0},
		{"/v3/kv/range", `{"key": "` + foo + `", "rangeEnd": "` + end + `", "sort_order": "DESCEND", "sort_target": "VALUE", "keys_only": true}`, 0},
		{"/v3/kv/range", `{"key": "` + foo + `", "revision": 99}`, 0},
		{"/v3/kv/range", `{}`, 0},
		{"/v3/kv/range", ``, 0},
		{"/v3beta/kv/range", `{"key": "` + foo + `"}`, 0},
		{"/v3/kv/txn", `{"compare": [{"target": "CREATE", "key": "` + foo + `", "createRevision": "2"}],
			"success": [{"requestPut": {"key": "` + foo + `", "value": "` + b64("t") + `"}}, {"request_range": {"key": "` + foo + `"}}]}`, 0},
		{"/v3/kv/txn", `{"compare": [{"result": "GREATER", "target": "VERSION", "key": "` + foo + `", "version": 50}],
			"failure": [{"request_delete_range": {"key": "` + foo + `", "prev_kv": true}}]}`, 0},
		{"/v3/watch", `{"create_request": {"key": "` + foo + `", "start_revision": "2"}}`, 2},
		{"/v3/watch", `{"create_request": {"key": "` + foo + `", "start_revision": "-2"}}`, 1},
		{"/v3/kv/compaction", `{"revision": 3}`, 0},
		{"/v3/kv/range", `{"key": "` + foo + `", "revision": "2"}`, 0},
		{"/v3/lease/grant", `{"TTL": 600, "ID": 7}`, 0},
		{"/v3/lease/grant", `{"TTL": "600", "ID": "7"}`, 0},
		{"/v3/kv/put", `{"key": "` + b64("leased") + `", "lease": "7"}`, 0},
		{"/v3/kv/lease/leases", `{}`, 0},
		{"/v3/lease/keepalive", `{"ID": 7}`, 1},
		{"/v3/lease/keepalive", `{"ID": 8}`, 1},
		{"/v3/lease/revoke", `{"ID": 7}`, 0},
		{"/v3/kv/deleterange", `{"key": "` + foo + `", "range_end": "` + end + `", "prev_kv": true}`, 0},
		{"/v3/maintenance/alarm", `{"action": "GET"}`, 0},
		{"/v3/maintenance/defragment", `{}`, 0},
		{"/v3/maintenance/status", `{}`, 0},
		{"/v3/cluster/member/list", `{}`, 0},
		{"/v3/election/leader", `{"name": "` + foo + `"}`, 0},
		{"/v3/election/proclaim", `{"value": "` + foo + `"}`, 0},
		{"/v3/auth/status", `{}`, 0},
		{"/v3/auth/enable", `{}`, 0},
		{"/v3/auth/authenticate", `{"name": "root", "password": "x"}`, 0},
		{"/v3/auth/user/add", `{"name": "root", "password": "pass"}`, 0},
		{"/v3/auth/user/add", `{"name": "root", "password": "pass"}`, 0},
		{"/v3/auth/role/add", `{"name": "root"}`, 0},
		{"/v3/auth/role/get", `{"role": "root"}`, 0},
		{"/v3/auth/user/grant", `{"user": "root", "role": "root"}`, 0},
		{"/v3/auth/user/get", `{"name": "root"}`, 0},
		{"/v3/auth/enable", `{}`, 0},
		{"/v3/kv/range", `{"key": "` + foo + `"}`, 0},
		{"/v3/watch", `{"create_request": {"key": "` + foo + `"}}`, 1},
		{"/v3/auth/authenticate", `{"name": "root", "password": "pass"}`, 0},
		{"/v3/no/such/path", `{}`, 0},
	}
	for _, row := range table {
		etcd, tinykv := post(t, sides[0], row.path, "", row.body, row.lines), post(t, sides[1], row.path, "", row.body, row.lines)
		if etcd != tinykv {
			t.Errorf("%s %s\n  etcd    %s\n  tinykv  %s", row.path, row.body, etcd, tinykv)
		}
	}
	var answers [2]string
	for i, server := range sides {
		response, err := plainHTTP.Post(server.Endpoint+"/v3/auth/authenticate", "application/json", strings.NewReader(`{"name": "root", "password": "pass"}`))
		if err != nil {
			t.Fatal(err)
		}
		var said struct{ Token string }
		if err := json.NewDecoder(response.Body).Decode(&said); err != nil || said.Token == "" {
			t.Fatalf("%s gave no token: %v", server.Name, err)
		}
		response.Body.Close()
		answers[i] = post(t, server, "/v3/kv/put", said.Token, `{"key": "`+foo+`"}`, 0) + post(t, server, "/v3/kv/put", "nonsense", `{"key": "`+foo+`"}`, 0)
	}
	if answers[0] != answers[1] {
		t.Errorf("with a token\n  etcd    %s\n  tinykv  %s", answers[0], answers[1])
	}
	// What a parser says of nonsense is its own; that it is the client's fault is not.
	for _, body := range []string{"{", `{"key": 5}`, `{"key": "no base64!"}`, "[]"} {
		for _, server := range sides {
			if said := post(t, server, "/v3/kv/range", "", body, 0); !strings.HasPrefix(said, "400 application/json") || !strings.Contains(said, `"code":3`) {
				t.Errorf("%s on %s: %s", server.Name, body, said)
			}
		}
	}
}

func get(t *testing.T, server *peers.Server, path string) string {
	response, err := plainHTTP.Get(server.Endpoint + path)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	scanner, lines := bufio.NewScanner(response.Body), []string{}
	for scanner.Scan() {
		lines = append(lines, scanner.Text())
	}
	// etcd runs its checks in an order of chance.
	sort.Strings(lines)
	return fmt.Sprintf("%d %s", response.StatusCode, strings.Join(lines, "\n"))
}

func TestHealthIsToldAsByEtcd(t *testing.T) {
	sides := []*peers.Server{peers.Etcd(t), peers.Tinykv(t)}
	for _, alarm := range []string{"", `{"action": "ACTIVATE", "alarm": "NOSPACE"}`, `{"action": "ACTIVATE", "alarm": "CORRUPT"}`} {
		if alarm != "" {
			for _, server := range sides {
				// One at a time: of several, etcd tells whichever it meets first.
				post(t, server, "/v3/maintenance/alarm", "", `{"action": "DEACTIVATE", "alarm": "NOSPACE"}`, 0)
				post(t, server, "/v3/maintenance/alarm", "", alarm, 0)
			}
		}
		for _, path := range []string{"/health", "/health?exclude=NOSPACE", "/health?serializable=true", "/livez", "/livez?verbose", "/livez/serializable_read",
			"/readyz", "/readyz/data_corruption", "/readyz/linearizable_read?verbose", "/readyz?exclude=data_corruption", "/version"} {
			if etcd, tinykv := get(t, sides[0], path), get(t, sides[1], path); etcd != tinykv {
				t.Errorf("%s with %s\n  etcd    %s\n  tinykv  %s", path, alarm, etcd, tinykv)
			}
		}
	}
}
