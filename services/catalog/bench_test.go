package catalog_test

import (
	"fmt"
	"testing"

	catalogv1 "github.com/tollway/tollway/schemas/proto/tollway/catalog/v1"
	"github.com/tollway/tollway/services/platform/testenv"
)

// fill makes n accounts.
func (e *env) fill(n int) {
	const batch = 1000
	for from := 0; from < n; from += batch {
		var resources []*catalogv1.Resource
		for i := from; i < min(n, from+batch); i++ {
			resources = append(resources, res(&catalogv1.Account{
				Name: fmt.Sprintf("accounts/a%06d", i), DisplayName: fmt.Sprint("Account ", i), Email: "billing@example.com", Currency: "EUR", TimeZone: "Europe/Berlin",
				BillingAddress: &catalogv1.PostalAddress{Lines: []string{"Street 1"}, City: "Berlin", PostalCode: "10115", Country: "DE"},
			}))
		}
		must[*catalogv1.ApplyResponse](e.t)(e.Apply(admin, &catalogv1.ApplyRequest{Resources: resources}))
	}
}

// The cost of a change and of a page must not grow with the catalog, but for pages
// in an order without an index.
func BenchmarkCatalog(b *testing.B) {
	for _, n := range []int{100, 10_000} {
		e := newEnv(b, testenv.Ledger(b))
		e.fill(n)
		b.Run(fmt.Sprintf("create/accounts=%d", n), func(b *testing.B) {
			for b.Loop() {
				must[*catalogv1.Account](b)(e.CreateAccount(admin, &catalogv1.CreateAccountRequest{Account: &catalogv1.Account{DisplayName: "X"}}))
			}
		})
		b.Run(fmt.Sprintf("update/accounts=%d", n), func(b *testing.B) {
			for i := 0; b.Loop(); i++ {
				must[*catalogv1.Account](b)(e.UpdateAccount(admin, &catalogv1.UpdateAccountRequest{Account: &catalogv1.Account{Name: "accounts/a000050", TaxId: fmt.Sprint(i)}}))
			}
		})
		for _, token := range []string{"", "middle"} {
			b.Run(fmt.Sprintf("list%s/accounts=%d", token, n), func(b *testing.B) {
				page := ""
				if token != "" {
					r := must[*catalogv1.ListAccountsResponse](b)(e.ListAccounts(admin, &catalogv1.ListAccountsRequest{PageSize: int32(min(1000, n/2))}))
					page = r.GetNextPageToken()
				}
				for b.Loop() {
					r := &catalogv1.ListAccountsRequest{PageSize: 50, PageToken: page}
					if got := must[*catalogv1.ListAccountsResponse](b)(e.ListAccounts(admin, r)); len(got.GetAccounts()) != 50 {
						b.Fatal(len(got.GetAccounts()))
					}
				}
			})
		}
		for _, order := range []string{"display_name", "update_time desc"} {
			b.Run(fmt.Sprintf("by %s/accounts=%d", order, n), func(b *testing.B) {
				for b.Loop() {
					must[*catalogv1.ListAccountsResponse](b)(e.ListAccounts(admin, &catalogv1.ListAccountsRequest{PageSize: 50, OrderBy: order}))
				}
			})
		}
	}
}
