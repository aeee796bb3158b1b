// SPDX-License-Identifier: GPL-3.0-or-later
package bd.gov.dghs.fhir.hapi.read;

import java.util.Map;
import javax.sql.DataSource;
import org.springframework.jdbc.datasource.lookup.AbstractRoutingDataSource;

/** The primary, or the standby for the thread of a read that may go there. */
class RoutingDataSource extends AbstractRoutingDataSource {

    RoutingDataSource(DataSource primary, DataSource standby) {
        setDefaultTargetDataSource(primary);
        setTargetDataSources(Map.of(Route.PRIMARY, primary, Route.STANDBY, standby));
        afterPropertiesSet();
    }

    @Override
    protected Object determineCurrentLookupKey() {
        return Route.present();
    }
}
