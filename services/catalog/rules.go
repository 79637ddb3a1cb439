package catalog

import (
	"slices"

	catalogv1 "github.com/tollway/tollway/schemas/proto/tollway/catalog/v1"
	"github.com/tollway/tollway/services/catalog/kind"
	"github.com/tollway/tollway/services/platform/auth"
)

// The scopes to which a token can be limited.
const (
	catalogRead  = "catalog.read"
	catalogWrite = "catalog.write"
	accountRead  = "accounts.read"
	accountWrite = "accounts.write"
	tokenRead    = "tokens.read"
	tokenWrite   = "tokens.write"
	auditRead    = "audit.read"
)

var (
	admins   = []auth.Role{auth.Admin}
	managers = []auth.Role{auth.Admin, auth.ProductManager}
	billers  = []auth.Role{auth.Admin, auth.Finance}
	staff    = []auth.Role{auth.Admin, auth.ProductManager, auth.Finance}
)

// access is who reads and writes the resources of a kind, consumers apart.
type access struct{ read, write auth.Rule }

func accessTo(k *kind.Kind) access {
	catalog := func(write []auth.Role) access {
		return access{auth.Rule{Roles: staff, Scope: catalogRead}, auth.Rule{Roles: write, Scope: catalogWrite}}
	}
	account := func(write []auth.Role) access {
		return access{auth.Rule{Roles: staff, Scope: accountRead}, auth.Rule{Roles: write, Scope: accountWrite}}
	}
	switch k {
	case kind.Token:
		return access{auth.Rule{Roles: admins, Scope: tokenRead}, auth.Rule{Roles: admins, Scope: tokenWrite}}
	case kind.LegalEntity:
		return catalog(billers)
	case kind.Account:
		return account(staff)
	case kind.App, kind.Credential, kind.Subscription:
		return account(managers)
	}
	return catalog(managers)
}

// plural names a kind in the methods that list it.
var plural = map[*kind.Kind][2]string{
	kind.LegalEntity: {"LegalEntity", "LegalEntities"}, kind.Environment: {"Environment", "Environments"},
	kind.Meter: {"Meter", "Meters"}, kind.API: {"Api", "Apis"}, kind.Operation: {"Operation", "Operations"},
	kind.Account: {"Account", "Accounts"}, kind.App: {"App", "Apps"}, kind.Credential: {"Credential", "Credentials"},
	kind.Product: {"Product", "Products"}, kind.Plan: {"Plan", "Plans"}, kind.PlanVersion: {"PlanVersion", "PlanVersions"},
	kind.Subscription: {"Subscription", "Subscriptions"}, kind.Token: {"Token", "Tokens"},
}

const service = "/tollway.catalog.v1.Catalog/"

// Rules say who may call which method. A consumer sees and changes what is in
// its own account, and sees the products that are meant for it.
var Rules = rules()

func rules() auth.Rules {
	out := auth.Rules{
		catalogv1.Catalog_RotateCredential_FullMethodName:    accessTo(kind.Credential).write,
		catalogv1.Catalog_RevokeCredential_FullMethodName:    accessTo(kind.Credential).write,
		catalogv1.Catalog_ImportOpenApi_FullMethodName:       accessTo(kind.Operation).write,
		catalogv1.Catalog_PublishPlanVersion_FullMethodName:  accessTo(kind.PlanVersion).write,
		catalogv1.Catalog_ArchivePlanVersion_FullMethodName:  accessTo(kind.PlanVersion).write,
		catalogv1.Catalog_ApproveSubscription_FullMethodName: accessTo(kind.Subscription).write,
		catalogv1.Catalog_SuspendSubscription_FullMethodName: accessTo(kind.Subscription).write,
		catalogv1.Catalog_ResumeSubscription_FullMethodName:  accessTo(kind.Subscription).write,
		catalogv1.Catalog_EndSubscription_FullMethodName:     accessTo(kind.Subscription).write,
		catalogv1.Catalog_MoveSubscription_FullMethodName:    accessTo(kind.Subscription).write,
		catalogv1.Catalog_Register_FullMethodName:            {Roles: []auth.Role{auth.Anyone}},
		catalogv1.Catalog_WhoAmI_FullMethodName: {
			Roles: []auth.Role{auth.Admin, auth.ProductManager, auth.Finance, auth.Gateway}, Scope: catalogRead,
		},
		// Apply asks for every kind that it touches besides.
		catalogv1.Catalog_Apply_FullMethodName:            {Roles: staff, Scope: catalogWrite},
		catalogv1.Catalog_ListAuditEntries_FullMethodName: {Roles: staff, Scope: auditRead},
	}
	for k, names := range plural {
		to := accessTo(k)
		out[service+"Get"+names[0]] = to.read
		out[service+"List"+names[1]] = to.read
		out[service+"Create"+names[0]] = to.write
		out[service+"Update"+names[0]] = to.write
		out[service+"Delete"+names[0]] = to.write
	}
	for _, method := range ownMethods {
		rule := out[method]
		rule.Roles, rule.OwnAccount = append(slices.Clone(rule.Roles), auth.Consumer), true
		out[method] = rule
	}
	for _, method := range sharedMethods {
		rule := out[method]
		rule.Roles, rule.SelfScoped = append(slices.Clone(rule.Roles), auth.Consumer), true
		out[method] = rule
	}
	return out
}

// ownMethods are a consumer's, within its account.
var ownMethods = []string{
	catalogv1.Catalog_GetAccount_FullMethodName,
	catalogv1.Catalog_UpdateAccount_FullMethodName,
	catalogv1.Catalog_GetApp_FullMethodName,
	catalogv1.Catalog_ListApps_FullMethodName,
	catalogv1.Catalog_CreateApp_FullMethodName,
	catalogv1.Catalog_UpdateApp_FullMethodName,
	catalogv1.Catalog_DeleteApp_FullMethodName,
	catalogv1.Catalog_GetCredential_FullMethodName,
	catalogv1.Catalog_ListCredentials_FullMethodName,
	catalogv1.Catalog_CreateCredential_FullMethodName,
	catalogv1.Catalog_UpdateCredential_FullMethodName,
	catalogv1.Catalog_DeleteCredential_FullMethodName,
	catalogv1.Catalog_RotateCredential_FullMethodName,
	catalogv1.Catalog_RevokeCredential_FullMethodName,
	catalogv1.Catalog_GetSubscription_FullMethodName,
	catalogv1.Catalog_ListSubscriptions_FullMethodName,
	catalogv1.Catalog_CreateSubscription_FullMethodName,
	catalogv1.Catalog_EndSubscription_FullMethodName,
}

// sharedMethods are a consumer's too; what it may see is decided resource by
// resource.
var sharedMethods = []string{
	catalogv1.Catalog_GetProduct_FullMethodName,
	catalogv1.Catalog_ListProducts_FullMethodName,
	catalogv1.Catalog_GetPlan_FullMethodName,
	catalogv1.Catalog_ListPlans_FullMethodName,
	catalogv1.Catalog_GetPlanVersion_FullMethodName,
	catalogv1.Catalog_ListPlanVersions_FullMethodName,
	catalogv1.Catalog_WhoAmI_FullMethodName,
	catalogv1.Catalog_ListAuditEntries_FullMethodName,
}
